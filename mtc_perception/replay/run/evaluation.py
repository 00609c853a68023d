"""A whole run: from recordings and options to its streams, and from these to its result."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import mtc_perception
from mtc_perception.core.bundle import read_bundle
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.recordings.bag_files import is_bag
from mtc_perception.replay.recordings.labels import LabelFolder
from mtc_perception.replay.recordings.recording import SourceError
from mtc_perception.replay.recordings.sources import FolderSource, find_streams
from mtc_perception.replay.report.run_page import write_page
from mtc_perception.replay.results.run_result import (
    STREAMS_FOLDER,
    merge_run,
    write_result,
)
from mtc_perception.replay.run.runners import Runner
from mtc_perception.replay.run.scenario import Check, Limit, check_limits, junit_xml
from mtc_perception.replay.stream.stream import finished
from mtc_perception.replay.stream.task import Failure, StreamTask
from mtc_perception.util.differences import refuse_other
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.locking import held
from mtc_perception.util.provenance import provenance

JUNIT_FILE = "junit.xml"
RUN_FILE = "run.json"
"""What a run is of: recordings and options."""
_PACKAGE = Path(mtc_perception.__file__).parent


def plan_run(
    recordings: Sequence[Recording], options: ReplayOptions, run: Path
) -> tuple[list[StreamTask], list[Failure]]:
    """The streams of all recordings, and the bags that cannot be read; `run` is the run's folder.

    Raises UserError for what is no recording at all, for bundles and labels that are unusable, and
    for labels of one camera that are given to several.
    """
    for recording in recordings:
        if not recording.path.exists():
            raise SourceError(f"{recording.path} does not exist")
    folders = {one.labels: LabelFolder(one.labels) for one in recordings if one.labels is not None}
    given = (options.bundle, options.reference)
    common = [_software(), *(_bundle_key(path) for path in given if path)]
    tasks: list[StreamTask] = []
    failures: list[Failure] = []
    for recording in recordings:
        try:
            cameras = _cameras(recording)
            depends = [*common, _labels_key(recording, folders)]
            tasks += [
                _task(number, camera, options, run, depends)
                for number, camera in enumerate(cameras, start=len(tasks))
            ]
        except SourceError as error:
            failures.append(Failure(recording.path.name, str(error)))
    return _named_apart(tasks), failures


def _cameras(recording: Recording) -> list[Recording]:
    """One recording per camera, with the topics of its labels. Raises SourceError and UserError."""
    streams = find_streams(recording.path, recording.topics, recording.fps, recording.truth)
    if len(streams) > 1 and (recording.labels or recording.truth):
        # Cameras with one trigger have one stamp: they would all be scored by these labels.
        raise UserError(
            f"{recording.path} has several cameras, {', '.join(str(one) for one, _ in streams)}: "
            "say with --topic whose labels these are"
        )
    return [
        recording.model_copy(update={"topics": (topic,) if topic else (), "truth": truth})
        for topic, truth in streams
    ]


def _task(
    number: int, camera: Recording, options: ReplayOptions, run: Path, depends: Sequence[str]
) -> StreamTask:
    name = ":".join([camera.path.name, *camera.topics])
    out = run / STREAMS_FOLDER / f"{number:02d}_{_slug(name)}"
    return StreamTask(number, name, camera, options, out, _key(camera, options, depends))


def _named_apart(tasks: Sequence[StreamTask]) -> list[StreamTask]:
    """The tasks; recordings of one name in several folders get a number that no other has."""
    own = {task.name for task in tasks}
    taken: set[str] = set()
    renamed = []
    for task in tasks:
        others = (f"{task.name} ({number})" for number in itertools.count(2))
        free = (name for name in others if name not in own | taken)
        name = next(free) if task.name in taken else task.name
        taken.add(name)
        renamed.append(replace(task, name=name))
    return renamed


def _key(camera: Recording, options: ReplayOptions, depends: Sequence[str]) -> str:
    """Changes with everything that the result of a stream depends on.

    `depends` are the keys of the networks, the labels and the software.
    """
    content = {
        "recording": camera.model_dump(mode="json", exclude={"labels"}),
        "options": options.model_dump(mode="json", exclude={"bundle", "reference"}),
        "depends": list(depends),
        "files": _files(camera.path),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _files(path: Path) -> list[list[Any]]:
    """Names, sizes and times of change of a file, or of all files below a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files if file.is_file()]
    return [[file.name, stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def _bundle_key(path: Path) -> str:
    """Raises BundleError."""
    manifest = read_bundle(path).manifest
    return hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()


def _labels_key(recording: Recording, folders: Mapping[Path, LabelFolder]) -> str:
    """Of the labels that are not in the recording itself."""
    if recording.labels is not None:
        return folders[recording.labels].fingerprint()
    if recording.path.is_dir() and not is_bag(recording.path):
        return FolderSource(recording.path).fingerprint()
    return ""


def _software() -> str:
    """Of this package, the runtimes and the machine: answers and times are theirs, too."""
    digest = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*")):
        # Whatever its kind: kernels for the GPU are sources, too.
        if file.is_file() and file.suffix != ".pyc":
            digest.update(file.read_bytes())
    about = provenance()
    digest.update(json.dumps([about["versions"], about["machine"]]).encode())
    return digest.hexdigest()


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_")[:80]


def default_run_folder(
    recordings: Sequence[Recording], options: ReplayOptions, name: str | None
) -> Path:
    """Where a run goes by default: a folder of its own for what is mostly varied.

    That is the bundle, the scenario (`name`) or the recordings, engine and precision where they are
    asked for, and the mode.
    """
    paths = list(dict.fromkeys(one.path for one in recordings))
    more = f"+{len(paths) - 1}" if paths[1:] else ""
    parts = (
        options.bundle.stem,
        name or f"{paths[0].stem}{more}",
        options.engine if options.engine != "auto" else None,
        options.precision,
        "live" if options.mode == "live" else None,
    )
    return Path("out", "replay", _slug("_".join(filter(None, parts))))


class RunObserver(Protocol):
    """Is told what is to be done of a run, and then how far it is."""

    def planned(self, tasks: Sequence[StreamTask], there: int, run: Path) -> None:
        """`tasks` are to be done, `there` more are in the run's folder from an earlier try."""

    def __call__(self, task: StreamTask, done: float, total: float | None) -> None:
        """As a `StreamCount`."""


def evaluate_run(
    recordings: Sequence[Recording],
    options: ReplayOptions,
    run: Path,
    runner: Runner,
    observer: RunObserver,
    *,
    name: str | None = None,
    limits: Mapping[str, Limit] = MappingProxyType({}),
    fresh: bool = False,
) -> dict[str, Any]:
    """Replay every stream that is not there yet, merge all, check the limits, write the result.

    `name` is the scenario's; `fresh` replays what is there as well. Returns the content of
    `result.json`. Raises UserError where another process works in `run`, where that holds a run of
    other recordings or options, and where nothing at all can be evaluated; then only `junit.xml`
    is written.
    """
    planned, unreadable = plan_run(recordings, options, run)
    # No folder is made for nothing but a lock.
    with held(run) if planned or limits or run.exists() else nullcontext():
        asked = _asked(recordings, options, name)
        _refuse_other_run(run, asked)
        there = [] if fresh else [one for task in planned if (one := finished(task)) is not None]
        done = {result.number for result in there}
        tasks = [task for task in planned if task.number not in done]
        observer.planned(tasks, len(there), run)
        outcomes = runner(tasks, observer)
        failures: list[Failure] = [*unreadable, *outcomes.failures]
        results = [*there, *outcomes.results]
        result = merge_run(run, results, failures) if results else {}
        checks = check_limits(result, limits)
        if limits:
            write_text_atomic(run / JUNIT_FILE, junit_xml(name or "mtc-replay", checks, failures))
        if not results:
            raise _nothing_evaluated(failures)
        result["scenario"] = name
        result["resumed"] = [one.name for one in there]
        result["checks"] = [asdict(check) for check in checks]
        result["passed"] = _passed(checks)
        write_text_atomic(run / RUN_FILE, json.dumps(asked, indent=2) + "\n")
        write_result(run, result)
        write_page(run)
    return result


def _asked(
    recordings: Sequence[Recording], options: ReplayOptions, name: str | None
) -> dict[str, Any]:
    """What a run is of, as JSON."""
    paths = [one.model_dump(mode="json") for one in recordings]
    return {"scenario": name, "recordings": paths, **options.model_dump(mode="json")}


def _refuse_other_run(run: Path, asked: Mapping[str, Any]) -> None:
    """Raise UserError if the folder holds the result of something else."""
    try:
        held = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # nothing, or nothing that could be missed
    if isinstance(held, dict):
        refuse_other(run, held, asked)


def _nothing_evaluated(failures: Sequence[Failure]) -> UserError:
    """Why, stream by stream."""
    if len(failures) == 1:
        return UserError(failures[0].error)
    reasons = "; ".join(f"{failure.name}: {failure.error}" for failure in failures)
    return UserError(f"none of {len(failures)} streams could be evaluated: {reasons}")


def _passed(checks: Sequence[Check]) -> bool | None:
    return all(check.passed for check in checks) if checks else None

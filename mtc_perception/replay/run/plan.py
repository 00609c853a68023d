"""From recordings and options to the streams of a run."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mtc_perception
from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.engine import EngineChoice
from mtc_perception.replay.recordings.bag_files import is_bag
from mtc_perception.replay.recordings.bag_labels import TruthTopics
from mtc_perception.replay.recordings.labels import LabelFolder
from mtc_perception.replay.recordings.recording import SourceError, Transport
from mtc_perception.replay.recordings.sources import FolderSource, find_streams
from mtc_perception.replay.stream.task import Failure, Mode, StreamTask
from mtc_perception.util.errors import UserError
from mtc_perception.util.provenance import provenance

_PACKAGE = Path(mtc_perception.__file__).parent


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording of a run, and what of it is to be replayed."""

    path: Path
    topics: tuple[str, ...] = ()
    """Cameras of a bag; empty: all of them."""
    truth: TruthTopics | None = None
    """None: looked for in the bag."""
    labels: Path | None = None
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How every stream of a run is replayed; the fields are those of `StreamTask`."""

    bundle: Path
    engine: EngineChoice = "auto"
    precision: str | None = None
    threads: int | None = None
    reference: Path | None = None
    seconds: float | None = None
    mode: Mode = "lockstep"
    rate: float = 1.0
    max_frame_age_ms: float = 0.0
    transport: Transport | None = None
    annotate: bool = False
    video: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The streams of a run, and the recordings of which none can be made."""

    tasks: list[StreamTask]
    failures: list[Failure]


def plan_run(recordings: Sequence[Recording], options: Options, run: Path) -> Plan:
    """Open every recording and list its streams; `run` is the folder of the run.

    Raises UserError for what is no recording at all, for bundles and labels that are unusable, and
    for labels of one camera that are given to several; a bag that cannot be read is a failure of
    the plan.
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
            streams = _streams(recording)
            depends = [*common, _labels_key(recording, folders)]
            for topic, truth in streams:
                tasks.append(_task(len(tasks), recording, topic, truth, options, run, depends))
        except SourceError as error:
            failures.append(Failure(recording.path.name, str(error)))
    return Plan(_named_apart(tasks), failures)


def _streams(recording: Recording) -> list[tuple[str | None, TruthTopics | None]]:
    """Camera topics, and those of their labels. Raises SourceError and UserError."""
    streams = find_streams(recording.path, recording.topics, recording.fps, recording.truth)
    if len(streams) > 1 and (recording.labels or recording.truth):
        # Cameras with one trigger have one stamp: they would all be scored by these labels.
        raise UserError(
            f"{recording.path} has several cameras, {', '.join(str(one) for one, _ in streams)}: "
            "say with --topic whose labels these are"
        )
    return streams


def _task(
    number: int,
    recording: Recording,
    topic: str | None,
    truth: TruthTopics | None,
    options: Options,
    run: Path,
    depends: Sequence[str],
) -> StreamTask:
    path = recording.path.absolute()
    name = f"{path.name}:{topic}" if topic else path.name
    task = StreamTask(
        number=number,
        name=name,
        path=path,
        topic=topic,
        fps=recording.fps,
        seconds=options.seconds,
        truth=truth,
        labels=None if recording.labels is None else recording.labels.absolute(),
        bundle=options.bundle.absolute(),
        engine=options.engine,
        precision=options.precision,
        threads=options.threads,
        reference=None if options.reference is None else options.reference.absolute(),
        mode=options.mode,
        rate=options.rate,
        max_frame_age_ms=options.max_frame_age_ms,
        transport=options.transport,
        annotate=options.annotate,
        video=options.video,
        out=run / "streams" / f"{number:02d}_{_slug(name)}",
        key="",
    )
    return replace(task, key=_key(task, depends))


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


def _key(task: StreamTask, depends: Sequence[str]) -> str:
    """Changes with everything that the task's result depends on.

    `depends` are the keys of what is not the task's own.
    """
    options = {
        key: value
        for key, value in asdict(task).items()
        if key not in ("number", "name", "out", "key", "bundle", "reference", "labels")
    }
    content: dict[str, Any] = {
        "options": {key: value and str(value) for key, value in options.items()},
        "depends": list(depends),
        "files": _files(task.path),
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


def default_run_folder(bundle: Path, name: str | None, mode: Mode) -> Path:
    """Where a run goes by default: a folder of its own for every bundle, scenario and mode."""
    parts = bundle.stem, name, "live" if mode == "live" else None
    return Path("out", "replay", _slug("_".join(filter(None, parts))))

"""The result of a run, `result.json`: a pure function of its streams' records."""

import copy
import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtc_perception.core.class_map import VEHICLE_CLASSES
from mtc_perception.core.tasks import TASKS, Task
from mtc_perception.core.timing import percentiles
from mtc_perception.metrics.tasks import PerceptionMetrics
from mtc_perception.replay.recordings.recording import Notes
from mtc_perception.replay.records.image_figures import Stability
from mtc_perception.replay.records.record import FrameRecord, read_frames, read_times
from mtc_perception.replay.stream.task import Failure, StreamResult
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.provenance import provenance

RESULT_FILE = "result.json"
STREAMS_FOLDER = "streams"
_ENDINGS = ("processed", "dropped", "stale", "malformed")


@dataclass(slots=True)
class Figures:
    """Everything that is counted of some images; parts add up to the whole."""

    metrics: PerceptionMetrics
    agreement: PerceptionMetrics
    answered: PerceptionMetrics | None = None
    """Without the images that got no answer, which `metrics` take for misses; None: no such."""
    stability: Stability = field(default_factory=Stability)
    endings: Counter[str] = field(default_factory=Counter)
    labelled: int = 0
    missed: int = 0
    """Labelled images without an answer."""
    latencies_ms: "dict[str, array[float]]" = field(default_factory=dict)

    @classmethod
    def of(cls, result: StreamResult) -> "Figures":
        """Nothing counted yet, at the thresholds of a stream."""

        def metrics() -> PerceptionMetrics:
            return PerceptionMetrics(
                result.thresholds["drivable"],
                result.thresholds["lane"],
                result.max_detections,
                result.thresholds["score"],
                result.class_map,
            )

        return cls(metrics(), metrics())

    def add(self, record: FrameRecord) -> None:
        """Count one image."""
        self.endings[record.status] += 1
        if record.evidence is not None:
            self.labelled += 1
            missed = record.status != "processed"
            self._tell_apart(missed)
            self.metrics.add(record.evidence)
            if missed:
                self.missed += 1
            elif self.answered is not None:
                self.answered.add(record.evidence)
        if record.agreement is not None:
            self.agreement.add(record.agreement)
        if record.stability is not None:
            self.stability.add(record.stability)

    def add_times(self, latency_ms: Mapping[str, float]) -> None:
        """Count the times of one answered image."""
        for stage, value in latency_ms.items():
            self.latencies_ms.setdefault(stage, array("d")).append(value)

    def merge(self, other: "Figures") -> None:
        """Count everything `other` counted too."""
        self._tell_apart(other.answered is not None)
        if self.answered is not None:
            self.answered.merge(other.metrics if other.answered is None else other.answered)
        self.metrics.merge(other.metrics)
        self.agreement.merge(other.agreement)
        self.stability.merge(other.stability)
        self.endings += other.endings
        self.labelled += other.labelled
        self.missed += other.missed
        for stage, values in other.latencies_ms.items():
            self.latencies_ms.setdefault(stage, array("d")).extend(values)

    def to_json(self) -> dict[str, Any]:
        """The figures under their names in a result."""
        content: dict[str, Any] = self.metrics.to_json()
        content["frames_in"] = sum(self.endings[ending] for ending in _ENDINGS)
        for ending in (*_ENDINGS, "unreadable"):
            content[f"frames_{ending}"] = self.endings[ending]
        content["labelled_frames"] = self.labelled
        content["latency_ms"] = {
            stage: percentiles(values) for stage, values in self.latencies_ms.items()
        }
        if self.answered is not None:
            content["answered"] = self.answered.to_json()
        if self.agreement.images:
            content["agreement"] = self.agreement.to_json()
        if self.stability.pairs:
            content["stability"] = self.stability.to_json()
        return content

    def _tell_apart(self, missed: bool) -> None:
        """Before the first image without an answer is counted: so far both are the same."""
        if missed and self.answered is None:
            self.answered = copy.deepcopy(self.metrics)


def merge_run(
    run: Path, results: Iterable[StreamResult], failures: Sequence[Failure]
) -> dict[str, Any]:
    """The result of a run, from the records in its folder.

    `results` are of one stream at least. The same whatever the order in which the streams ended,
    and whoever ran them. Raises UserError where the streams are not of one network.
    """
    ordered = sorted(results, key=lambda one: one.number)
    first = ordered[0]
    if any(_network(one) != _network(first) for one in ordered):
        raise UserError(f"{run} holds streams of several networks or modes")
    total: Figures | None = None
    notes = Notes()
    engines = {_engine(one): one.name for one in reversed(ordered)}
    if len(engines) > 1:
        found = ", ".join(f"{engine} for {name}" for engine, name in sorted(engines.items()))
        notes.add("several engines", f"{found}: times and answers of one run are of all of them")
    streams = []
    jitters_ms = array("d")
    for one in ordered:
        folder = _folder(run, one)
        figures = _figures(folder, one)
        if one.live:
            jitters_ms.extend(jitter_ms(read_times(folder)))
        for note in one.notes:
            notes.add(note.kind, f"{one.name}: {note.first}", note.count)
        streams.append(
            {"name": one.name, "path": one.path, "topic": one.topic, "folder": folder.name}
            | figures.to_json()
            | {
                "engine": one.engine,
                "rate_hz": one.rate_hz,
                "frames_sha256": one.frames_sha256,
                "notes": [asdict(note) for note in one.notes],
                "live": one.live,
            }
        )
        if total is None:
            total = figures  # not a copy: of a long drive it would be large
        else:
            total.merge(figures)
    assert total is not None
    together = "".join(one.frames_sha256 for one in ordered)
    wall_s = sum(one.wall_s for one in ordered)
    figures_json = total.to_json()
    return figures_json | {
        "mode": first.mode,
        "engine": first.engine["name"],
        "engine_why": first.engine["why"],
        "device": first.engine["device"],
        "precision": first.engine["precision"],
        "frames_per_s": figures_json["frames_in"] / wall_s if wall_s else None,
        "thresholds": first.thresholds,
        "score_floor": first.score_floor,
        "params": first.bundle["params"],
        "gmacs": first.bundle["gmacs"],
        "bundle": first.bundle,
        "reference": first.reference,
        "streams": streams,
        "failed": [asdict(failure) for failure in failures],
        "notes": [asdict(note) for note in notes.all()],
        "results_sha256": hashlib.sha256(together.encode()).hexdigest(),
        **provenance(),
        **_live([one.live for one in ordered if one.live], jitters_ms),
    }


def write_result(run: Path, result: Mapping[str, Any]) -> Path:
    """Write `result.json` into the folder of a run."""
    return write_text_atomic(run / RESULT_FILE, json.dumps(result, indent=2) + "\n")


def read_result(run: Path) -> dict[str, Any]:
    """The result in the folder of a run. Raises UserError."""
    path = run / RESULT_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; is {run} a run?") from None
    if not isinstance(content, dict) or "results_sha256" not in content:
        raise UserError(f"{path} is no result of `mtc-replay evaluate`")
    return content


def stream_folder(run: Path, stream: Mapping[str, Any]) -> Path:
    """Where the records of one of a result's `streams` are."""
    return run / STREAMS_FOLDER / str(stream["folder"])


def tasks_of(result: Mapping[str, Any]) -> set[Task]:
    """What the network of a result does; before networks could lack a task, all of it."""
    return set(result["bundle"].get("tasks", TASKS))


def classes_of(result: Mapping[str, Any]) -> list[str]:
    """Names of what the network of a result detects; before there could be several, vehicles."""
    known = result["bundle"].get("classes")
    return VEHICLE_CLASSES.names if known is None else list(known["classes"])


def unanswered_streams(result: Mapping[str, Any]) -> list[str]:
    """The streams of a result in which no image at all was answered, which is no success."""
    return [stream["name"] for stream in result["streams"] if not stream["frames_processed"]]


def _live(streams: Sequence[Mapping[str, Any]], jitters_ms: Sequence[float]) -> dict[str, Any]:
    return {"live": merge_live(streams, jitters_ms)} if streams else {}


def jitter_ms(times: Iterable[tuple[int, Mapping[str, float]]]) -> Iterator[float]:
    """How much the end-to-end latency of each image differs from that of the one before.

    `times` are (index, latency by stage); pairs with an unanswered image between them are left out.
    """
    before_index, before_ms = -2, 0.0
    for index, latency_ms in times:
        if index == before_index + 1:
            yield abs(latency_ms["end_to_end"] - before_ms)
        before_index, before_ms = index, latency_ms["end_to_end"]


def merge_live(streams: Sequence[Mapping[str, Any]], jitters_ms: Iterable[float]) -> dict[str, Any]:
    """`live` of a whole run: sums of counts, the worst of times, percentiles of every jitter.

    `streams` are the streams' own `live`. A stream without any answer has no time to its first
    one, and then the run has none.
    """
    first_ms = [stream["time_to_first_output_ms"] for stream in streams]
    late_ms = [stream["played_late_ms"].get("max", 0.0) for stream in streams]
    return {
        "rate": streams[0]["rate"],
        "frames_published": sum(stream["frames_published"] for stream in streams),
        "frames_received_by_node": sum(stream["frames_received_by_node"] for stream in streams),
        "ready_s": max(stream["ready_s"] for stream in streams),
        "time_to_first_output_ms": None if None in first_ms else max(first_ms),
        "played_late_ms_max": max(late_ms),
        "jitter_ms": percentiles(jitters_ms),
    }


def _network(result: StreamResult) -> tuple[Any, ...]:
    """What all streams of a run share; bundles may lie elsewhere on another machine."""
    hashes = [bundle and bundle["sha256"] for bundle in (result.bundle, result.reference)]
    return (*hashes, result.thresholds, result.max_detections, result.score_floor, result.mode)


def _engine(result: StreamResult) -> str:
    return " ".join(result.engine[name] for name in ("name", "precision", "device"))


def _folder(run: Path, result: StreamResult) -> Path:
    """A stream's folder, whose name begins with its number.

    Others of this number are of earlier recordings; a killed run may have left one incomplete.
    """
    for folder in sorted((run / STREAMS_FOLDER).glob(f"{result.number:02d}_*")):
        with suppress(UserError):
            if StreamResult.read(folder).key == result.key:
                return folder
    raise UserError(f"{run} has lost the records of {result.name}")


def _figures(folder: Path, result: StreamResult) -> Figures:
    figures = Figures.of(result)
    for record in read_frames(folder):
        figures.add(record)
    for _, latency_ms in read_times(folder):
        figures.add_times(latency_ms)
    return figures

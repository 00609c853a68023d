"""One stream as work to do, and as work done: both can be sent to other processes and machines."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtc_perception.core.class_map import VEHICLE_CLASSES, ClassMap
from mtc_perception.replay.options import Mode, Recording, ReplayOptions
from mtc_perception.replay.recordings.recording import Note, SourceKind
from mtc_perception.util.errors import UserError

STREAM_FILE = "stream.json"


@dataclass(frozen=True, slots=True)
class StreamTask:
    """One camera of one recording, to be replayed."""

    number: int
    """Position in the run, from 0."""
    name: str
    """Unique in the run, the same in every run of this recording: what runs are joined by."""
    recording: Recording
    """Of a bag, with this camera alone."""
    options: ReplayOptions
    out: Path
    """Folder of this stream, in the run's."""
    key: str
    """Of everything that the result depends on."""


@dataclass(frozen=True, slots=True)
class StreamResult:
    """What a stream's folder holds beside its records; the content of `stream.json`."""

    number: int
    name: str
    path: str
    topic: str | None
    kind: SourceKind
    mode: Mode
    key: str
    labels: str | None
    """Folder of the labels, if they are not in the recording."""
    truth: dict[str, str | None] | None
    """Topics of the labels, if they were named."""
    rate_hz: float
    frames_expected: int
    """Images that the recording claims to have."""
    engine: dict[str, Any]
    """name, precision, device, why"""
    bundle: dict[str, Any]
    """name, path, network, version, sha256 by variant, tasks, classes (a ClassMap), params, gmacs;
    without tasks and classes, of an older run, it has all tasks and finds vehicles"""
    reference: dict[str, Any] | None
    thresholds: dict[str, float]
    """Those deployed: score, drivable, lane."""
    max_detections: int
    score_floor: float
    """Detections below it are not known of."""
    notes: tuple[Note, ...]
    frames_sha256: str
    wall_s: float
    live: dict[str, Any] | None
    """Figures that only a live run has."""

    @property
    def class_map(self) -> ClassMap:
        """Of the bundle; of an older run, which knew one class, vehicles."""
        classes = self.bundle.get("classes")
        return VEHICLE_CLASSES if classes is None else ClassMap.model_validate(classes)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "StreamResult":
        """The result in a stream's folder. Raises UserError where there is none."""
        path = folder / STREAM_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            notes = tuple(Note(**note) for note in content.pop("notes"))
            return cls(**content, notes=notes)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is no result of mtc-replay: {error}") from None


@dataclass(frozen=True, slots=True)
class Failure:
    """A stream, or a recording, that could not be evaluated."""

    name: str
    error: str

"""What became of each image of a stream: one line of JSON per image, and its times beside it.

`frames.jsonl` depends on the recording, the network and the engine alone: two lock-step runs write
the same bytes. Times never repeat and are in `times.jsonl`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mtc_perception.metrics.detection import DetectionEvidence
from mtc_perception.metrics.masks import MaskCounts
from mtc_perception.metrics.tasks import ImageEvidence
from mtc_perception.util.errors import UserError

FRAMES_FILE, TIMES_FILE = "frames.jsonl", "times.jsonl"
Status = Literal["processed", "dropped", "stale", "malformed", "unreadable"]
_MASKS = ("drivable", "lane", "lane_dilated")


def _no_boxes() -> npt.NDArray[np.float32]:
    return np.zeros((0, 4), np.float32)


def _no_scores() -> npt.NDArray[np.float32]:
    return np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Change:
    """An answer compared with that to the image before."""

    boxes_before: int
    boxes_now: int
    matched: int
    """Boxes of now that overlap one of before by IoU 0.5, each once."""
    drivable: tuple[int, int]
    """Pixels in both masks, and in either."""
    lane: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class FrameRecord:
    """One image of a stream."""

    index: int
    stamp_ns: int
    status: Status
    """`unreadable`: its message is damaged, no node would ever get it. `malformed`: the node gets
    it and cannot use it."""
    reason: str = ""
    size: tuple[int, int] | None = None
    """Height and width."""
    digest: str = ""
    """Of boxes, scores, classes and masks at the deployed thresholds."""
    boxes: npt.NDArray[np.float32] = field(default_factory=_no_boxes)
    """[n, 4] x1, y1, x2, y2, of at least the deployed score threshold; as are the next two."""
    scores: npt.NDArray[np.float32] = field(default_factory=_no_scores)
    """[n]"""
    labels: tuple[str, ...] = ()
    """[n] class names"""
    truth_boxes: npt.NDArray[np.float32] | None = None
    """[m, 4] of the ground truth."""
    truth_ignore: npt.NDArray[np.bool_] | None = None
    """[m] ignore regions; None: none of them."""
    evidence: ImageEvidence | None = None
    """Against the ground truth; None: unlabelled."""
    agreement: ImageEvidence | None = None
    """Against the reference network's answer."""
    stability: Change | None = None
    """None where the image before was not answered."""

    def to_json(self) -> dict[str, Any]:
        """Content of the record's line, without what is empty."""
        content: dict[str, Any] = {
            "index": self.index,
            "stamp_ns": self.stamp_ns,
            "status": self.status,
            "reason": self.reason,
            "size": self.size and list(self.size),
            "digest": self.digest,
            "boxes": [_numbers(box) for box in self.boxes],
            "scores": _numbers(self.scores),
            "labels": list(self.labels),
            "truth_boxes": None
            if self.truth_boxes is None
            else [_numbers(box) for box in self.truth_boxes.astype(np.float32)],
            "truth_ignore": None if self.truth_ignore is None else self.truth_ignore.tolist(),
            "evidence": self.evidence and _evidence_json(self.evidence),
            "agreement": self.agreement and _evidence_json(self.agreement),
            "stability": self.stability
            and {
                "boxes": [
                    self.stability.boxes_before,
                    self.stability.boxes_now,
                    self.stability.matched,
                ],
                "drivable": list(self.stability.drivable),
                "lane": list(self.stability.lane),
            },
        }
        return {key: value for key, value in content.items() if value not in (None, "")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "FrameRecord":
        """Raises KeyError, TypeError or ValueError where `content` is no record."""
        size, truth = content.get("size"), content.get("truth_boxes")
        ignore, change = content.get("truth_ignore"), content.get("stability")
        return cls(
            index=content["index"],
            stamp_ns=content["stamp_ns"],
            status=content["status"],
            reason=content.get("reason", ""),
            size=None if size is None else (size[0], size[1]),
            digest=content.get("digest", ""),
            boxes=np.array(content["boxes"], np.float32).reshape(-1, 4),
            scores=np.array(content["scores"], np.float32),
            labels=tuple(content["labels"]),
            truth_boxes=None if truth is None else np.array(truth, np.float32).reshape(-1, 4),
            truth_ignore=None if ignore is None else np.array(ignore, np.bool_),
            evidence=_evidence(content.get("evidence")),
            agreement=_evidence(content.get("agreement")),
            stability=None if change is None else _change(change),
        )


class RecordWriter:
    """Writes the records and times of one stream as they come."""

    def __init__(self, folder: Path) -> None:
        """`folder` exists and holds neither file."""
        self._frames = (folder / FRAMES_FILE).open("x", encoding="utf-8")
        self._times = (folder / TIMES_FILE).open("x", encoding="utf-8")
        self._hash = hashlib.sha256()

    def add(self, record: FrameRecord, latency_ms: Mapping[str, float]) -> None:
        """`latency_ms` by stage; empty where there was no answer."""
        line = json.dumps(record.to_json(), separators=(",", ":")) + "\n"
        self._hash.update(line.encode())
        self._frames.write(line)
        if latency_ms:
            rounded = {stage: round(value, 4) for stage, value in latency_ms.items()}
            self._times.write(json.dumps({"index": record.index, "latency_ms": rounded}) + "\n")

    def close(self) -> str:
        """Complete the files; returns the sha256 of the records."""
        self._frames.close()
        self._times.close()
        return self._hash.hexdigest()


def records_sha256(folder: Path) -> str:
    """What `RecordWriter.close` returned, if the records are still the same. Raises OSError."""
    digest = hashlib.sha256()
    with (folder / FRAMES_FILE).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_frames(folder: Path) -> Iterator[FrameRecord]:
    """The records of a stream in their order, one at a time. Raises UserError."""
    for number, content in _lines(folder / FRAMES_FILE):
        try:
            yield FrameRecord.from_json(content)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder / FRAMES_FILE}, line {number} is no record: {error}"
            ) from None


def read_times(folder: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Index and times in ms by stage of every answered image. Raises UserError."""
    for _, content in _lines(folder / TIMES_FILE):
        yield content["index"], content["latency_ms"]


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield number, json.loads(line)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _numbers(values: npt.NDArray[np.float32]) -> list[float]:
    """The numbers with the fewest digits that are read as the same float32."""
    return [float(str(value)) for value in values]


def _change(content: Mapping[str, Any]) -> Change:
    (before, now, matched), drivable, lane = (
        content[part] for part in ("boxes", "drivable", "lane")
    )
    return Change(before, now, matched, (drivable[0], drivable[1]), (lane[0], lane[1]))


def _evidence_json(evidence: ImageEvidence) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if (found := evidence.detection) is not None:
        content["detection"] = {
            "objects": found.objects
            if len(found.objects_by_class) == 1
            else list(found.objects_by_class),
            "scores": _numbers(found.scores),
            "right": found.right.tolist(),
            "ignored": found.ignored.tolist(),
        }
        if len(found.objects_by_class) > 1:
            content["detection"]["labels"] = found.labels.tolist()
    for task in _MASKS:
        counts: MaskCounts | None = getattr(evidence, task)
        if counts is not None:
            content[task] = [
                counts.true_positive,
                counts.false_positive,
                counts.false_negative,
                counts.true_negative,
            ]
    return content


def _evidence(content: Mapping[str, Any] | None) -> ImageEvidence | None:
    if content is None:
        return None
    found = content.get("detection")
    return ImageEvidence(
        detection=None if found is None else _detection(found),
        **{task: MaskCounts(*content[task]) for task in _MASKS if task in content},
    )


def _detection(content: Mapping[str, Any]) -> DetectionEvidence:
    """One class has a number of objects and no labels, several a number each."""
    objects, count = content["objects"], len(content["scores"])
    return DetectionEvidence(
        np.array(content["scores"], np.float32),
        np.array(content["right"], np.uint16),
        np.array(content["ignored"], np.uint16),
        np.array(content.get("labels", [0] * count), np.uint16),
        tuple(objects) if isinstance(objects, list) else (objects,),
    )

"""A folder of labels for a recording: matched by stamp where its names are stamps, else by name."""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path

from mtc_perception.datasets.layout import Sample, label_splits, read_labels, read_truth, split_of
from mtc_perception.datasets.sample import LayoutError
from mtc_perception.metrics.tasks import GroundTruth
from mtc_perception.replay.recordings.recording import NS_PER_S, LabelledFrame, Notes, SourceFrame
from mtc_perception.util.errors import ImageError

STAMP_TOLERANCE_NS = 1_000_000
"""Names of files often hold stamps in micro- or milliseconds; no camera is as fast."""
_WHOLE_DIGITS = {19: 1, 16: 1_000, 13: 1_000_000}
"""Nanoseconds of one unit, by the number of digits of a stamp of this century."""


class LabelFolder:
    """The labels of one split of a data set, of any layout; its images need not be there."""

    def __init__(self, path: Path) -> None:
        """`path` is a split's image folder, or a data set of one split. Raises LayoutError."""
        root, split = split_of(path) or (path, None)
        if split is None:
            splits = label_splits(root)
            if len(splits) != 1:
                there = ", ".join(splits) or "none"
                raise LayoutError(f"{path} must have one split or end in it; it has: {there}")
            split = splits[0]
        self.name = f"{root.name}/{split}"
        self._samples = read_labels(root, split)
        if not self._samples:
            raise LayoutError(f"{path} holds no labels of split '{split}'")
        stamps = [stamp_of(stem) for stem in self._samples]
        self.by_stamp = None not in stamps
        by_stamp = {ns: one for ns, one in zip(stamps, self._samples.values(), strict=True) if ns}
        self._stamps_ns = sorted(by_stamp) if self.by_stamp else []
        self._by_stamp = by_stamp

    def __len__(self) -> int:
        return len(self._samples)

    def fingerprint(self) -> str:
        """Changes with the labels."""
        return fingerprint(self._samples.values())

    def find(self, frame: SourceFrame) -> Sample | None:
        """The labels of an image: of a file by its name, else as the folder's names have it."""
        if frame.name or not self.by_stamp:
            return self._samples.get(frame.name or Path(frame.frame_id).stem)
        at = bisect_left(self._stamps_ns, frame.stamp_ns)
        near = self._stamps_ns[max(at - 1, 0) : at + 1]
        best = min(near, key=lambda ns: abs(ns - frame.stamp_ns))
        return self._by_stamp[best] if abs(best - frame.stamp_ns) <= STAMP_TOLERANCE_NS else None

    def join(self, frames: Iterable[LabelledFrame], notes: Notes) -> Iterator[LabelledFrame]:
        """The frames with this folder's labels in place of their own.

        Labels that cannot be read are noted.
        """
        used: set[str] = set()
        seen = 0
        for frame, _ in frames:
            seen += 1
            sample = self.find(frame)
            if sample is not None:
                used.add(sample.stem)
            yield LabelledFrame(frame, None if sample is None else labels_of(sample, frame, notes))
        if not used and seen:
            how = "stamp" if self.by_stamp and not frame.name else "name"
            example = next(iter(self._samples))
            notes.add(
                "labels fit no image",
                f"no image has a {how} of the {len(self)} labels in {self.name}, as {example}",
            )
        elif len(used) < len(self._samples):
            missing = next(stem for stem in self._samples if stem not in used)
            count = len(self._samples) - len(used)
            notes.add("label without image", f"{self.name}: {missing}", count)


def fingerprint(samples: Iterable[Sample]) -> str:
    """Changes with the labels of the samples: boxes as they are, masks with their files."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.stem.encode())
        for array in (sample.boxes, sample.ignore):
            digest.update(b"none" if array is None else array.tobytes())
        for mask in (sample.drivable, sample.lane):
            stat = None if mask is None else mask.path.stat()
            digest.update(f"{stat and (stat.st_size, stat.st_mtime_ns)}".encode())
    return digest.hexdigest()


def labels_of(sample: Sample, frame: SourceFrame, notes: Notes) -> GroundTruth | None:
    """The labels of an image; None, and a note, where they cannot be read."""
    try:
        return read_truth(sample, frame.pixels.size)
    except LayoutError as error:
        notes.add("unreadable label", str(error))
    except ImageError:
        pass  # noted where the image is replayed
    return None


def stamp_of(name: str) -> int | None:
    """Nanoseconds of a stamp in the name of a file, None if it is none.

    Seconds with a fraction (`1700000000.25`), seconds and nanoseconds (`1700000000_250000000`), or
    whole nano-, micro- or milliseconds.
    """
    if match := re.fullmatch(r"(\d{9,10})\.(\d{1,9})", name):
        return int(match[1]) * NS_PER_S + int(match[2].ljust(9, "0"))
    if match := re.fullmatch(r"(\d{9,10})[_-](\d{1,9})", name):
        return int(match[1]) * NS_PER_S + int(match[2])
    if name.isdecimal() and (unit_ns := _WHOLE_DIGITS.get(len(name))):
        return int(name) * unit_ns
    return None

"""The labels that images are judged by: those of their recording, or of a folder beside it."""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from mtc_perception.core.truth import GroundTruth
from mtc_perception.datasets.layout import Sample, known_truth, label_splits, read_labels, split_of
from mtc_perception.datasets.sample import LayoutError, Problem
from mtc_perception.datasets.split_files import stem_of
from mtc_perception.replay.recordings.recording import (
    NS_PER_S,
    FrameSource,
    LabelledFrame,
    Notes,
    Pixels,
    RawPixels,
    SourceFrame,
    first_seconds,
)
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
        self._problems: list[Problem] = []
        self._samples = read_labels(root, split, self._problems)
        if not self._samples:
            raise LayoutError(f"{path} holds no labels of split '{split}'")
        stamps = [stamp_of(stem) for stem in self._samples]
        self.by_stamp = None not in stamps
        self._by_stamp: dict[int, Sample] = {}
        for ns, sample in zip(stamps, self._samples.values(), strict=True):
            if ns is not None and self.by_stamp:
                first = self._by_stamp.setdefault(ns, sample)
                if first is not sample:
                    raise LayoutError(
                        f"{path}: {first.stem} and {sample.stem} are labels of one stamp: keep one"
                    )
        self._stamps_ns = sorted(self._by_stamp)

    def __len__(self) -> int:
        return len(self._samples)

    def fingerprint(self) -> str:
        """Changes with the labels."""
        return fingerprint(self._samples.values())

    def find(self, frame: SourceFrame) -> Sample | None:
        """The labels of an image: of a file by its name, else as the folder's names have it."""
        if frame.name or not self.by_stamp:
            return self._samples.get(frame.name or stem_of(frame.frame_id))
        at = bisect_left(self._stamps_ns, frame.stamp_ns)
        near = self._stamps_ns[max(at - 1, 0) : at + 1]
        best = min(near, key=lambda ns: abs(ns - frame.stamp_ns))
        return self._by_stamp[best] if abs(best - frame.stamp_ns) <= STAMP_TOLERANCE_NS else None

    def join(self, frames: Iterable[LabelledFrame], notes: Notes) -> Iterator[LabelledFrame]:
        """The frames with this folder's labels in place of their own.

        Labels that cannot be read are noted.
        """
        note_problems(self._problems, notes)
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
        digest.update("\n".join(sample.categories).encode())
        for mask in (sample.drivable, sample.lane):
            digest.update(f"{None if mask is None else _size_and_time(mask.path)}".encode())
    return digest.hexdigest()


def _size_and_time(path: Path) -> tuple[int, int] | None:
    """None of a file that cannot be opened, which is told where it is read."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def labels_of(sample: Sample, frame: SourceFrame, notes: Notes) -> GroundTruth | None:
    """The labels of an image, None where it has none; what of them cannot be read is noted."""
    try:
        size = frame.pixels.size
    except ImageError:  # noted where the image is replayed, and a miss of what is labelled
        size = None
    truth, problems = known_truth(sample, size)
    note_problems(problems, notes)
    return truth


def note_problems(problems: Iterable[Problem], notes: Notes) -> None:
    """Note labels that cannot be read, which leaves an image unlabelled, and unread images."""
    for problem in problems:
        image = problem.kind == "image that is not looked at"
        notes.add("unreadable image" if image else "unreadable label", str(problem))


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


def labelled_frames(
    source: FrameSource, labels: Path | None, seconds: float | None, notes: Notes
) -> Iterator[LabelledFrame]:
    """The first `seconds` of a recording, None for all, with the labels that are to be used.

    Those are its own or, where it is given, those of the folder `labels`. What is odd about images
    and labels is noted. Raises SourceError, and LayoutError for a folder that is none of labels.
    """
    frames = source.labelled_frames(notes)
    if labels is not None:
        frames = LabelFolder(labels).join(frames, notes)
    # Behind the join: labels of what is left out are not labels without an image.
    return _watched(_fitted(first_seconds(frames, seconds), notes), notes)


def _watched(frames: Iterable[LabelledFrame], notes: Notes) -> Iterator[LabelledFrame]:
    """The frames; notes stamps that go back or repeat, and encodings that change."""
    before_ns: int | None = None
    encoding = ""
    for labelled in frames:
        frame = labelled.frame
        if before_ns is not None and frame.stamp_ns < before_ns:
            back_s = (before_ns - frame.stamp_ns) / 1e9
            notes.add("stamps go back", f"image {frame.index}: by {back_s:.3f} s")
        elif frame.stamp_ns == before_ns:
            notes.add("equal stamps", f"image {frame.index} has the stamp of the one before")
        before_ns = frame.stamp_ns
        now = _encoding(frame.pixels)
        if encoding and now and now != encoding:
            notes.add("encoding changes", f"image {frame.index}: {encoding} to {now}")
        encoding = now or encoding
        yield labelled


def _fitted(frames: Iterable[LabelledFrame], notes: Notes) -> Iterator[LabelledFrame]:
    """The frames without masks of another size than their image, which are noted."""
    for frame, truth in frames:
        yield LabelledFrame(frame, None if truth is None else _fitting(frame, truth, notes))


def _fitting(frame: SourceFrame, truth: GroundTruth, notes: Notes) -> GroundTruth | None:
    try:
        height, width = frame.pixels.size
    except ImageError:
        return truth  # noted where the image is replayed
    for task in ("drivable", "lane"):
        mask = getattr(truth, task)
        if mask is not None and mask.shape != (height, width):
            notes.add(
                "label of another size",
                f"image {frame.index} is {width}x{height}, its {task} label "
                f"{mask.shape[1]}x{mask.shape[0]}",
            )
            truth = replace(truth, **{task: None})
    return None if truth.is_empty else truth


def _encoding(pixels: Pixels) -> str:
    if isinstance(pixels, RawPixels):
        return f"{pixels.encoding} {pixels.width}x{pixels.height}"
    return getattr(pixels, "format", "")

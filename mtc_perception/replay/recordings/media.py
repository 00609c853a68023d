"""Recordings that are no bags: video files, and image folders with or without labels."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from mtc_perception.datasets.layout import (
    IMAGE_SUFFIXES,
    LayoutError,
    find_layout,
    read_split,
    split_of,
)
from mtc_perception.replay.recordings.frames import (
    NS_PER_S,
    EncodedPixels,
    LabelledFrame,
    RawPixels,
    SourceError,
    SourceFrame,
    SourceInfo,
)
from mtc_perception.replay.recordings.label_folder import fingerprint, labels_of
from mtc_perception.replay.recordings.notes import Notes

DEFAULT_FOLDER_FPS = 30.0


class VideoSource:
    """A video file, decoded by OpenCV to bgr8."""

    def __init__(self, path: Path, fps: float | None = None) -> None:
        """`fps` overrides the file's own frame rate. Raises SourceError."""
        self._path = path
        capture = self._open()
        rate_hz = fps or float(capture.get(cv2.CAP_PROP_FPS))
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        if not (math.isfinite(rate_hz) and rate_hz > 0):
            raise SourceError(f"{path} does not say its frame rate; give it with --fps")
        self.info = SourceInfo(path.name, "video", None, max(frames, 0), rate_hz)

    def frames(self) -> Iterator[SourceFrame]:
        capture = self._open()
        try:
            index = 0
            while True:
                more, pixels = capture.read()
                if not more:
                    break
                height, width = pixels.shape[:2]
                raw = RawPixels("bgr8", height, width, 3 * width, pixels.reshape(-1))
                yield SourceFrame(index, _stamp_ns(index, self.info.rate_hz), raw)
                index += 1
        finally:
            capture.release()
        if index == 0:
            raise SourceError(f"{self._path}: no frame of this video can be decoded")

    def labelled_frames(self, notes: Notes) -> Iterator[LabelledFrame]:
        count = 0
        for frame in self.frames():
            yield LabelledFrame(frame, None)
            count += 1
        if count < self.info.frames:
            claimed = f"its header claims {self.info.frames} images"
            notes.add("truncated file", f"{self._path.name}: {claimed}, {count} can be decoded")

    def _open(self) -> Any:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise SourceError(f"{self._path} is neither a bag nor a video that OpenCV can read")
        return capture


class FolderSource:
    """The JPEG and PNG files of a folder, by name.

    A folder of images of a data set's split, `<root>/images/<split>` for one, has its labels too.
    """

    def __init__(self, path: Path, fps: float | None = None) -> None:
        """Raises SourceError if there is no image."""
        self._files = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        )
        if not self._files:
            splits = _split_folders(path)
            mend = f"give {' or '.join(splits)}" if splits else "give a folder that does"
            raise SourceError(
                f"{path} holds neither images ({', '.join(IMAGE_SUFFIXES)}) nor a bag "
                f"(metadata.yaml): {mend}"
            )
        rate_hz = fps or DEFAULT_FOLDER_FPS
        self.info = SourceInfo(path.name, "images", None, len(self._files), rate_hz)
        data_set = split_of(path)
        samples = read_split(*data_set) if data_set else []
        self._samples = {sample.stem: sample for sample in samples if sample.labelled}

    def fingerprint(self) -> str:
        """Changes with the labels, which are in other folders."""
        return fingerprint(self._samples.values())

    def frames(self) -> Iterator[SourceFrame]:
        for index, file in enumerate(self._files):
            kind = "png" if file.suffix.lower() == ".png" else "jpeg"
            pixels = EncodedPixels(kind, file.read_bytes())
            yield SourceFrame(index, _stamp_ns(index, self.info.rate_hz), pixels, file.stem)

    def labelled_frames(self, notes: Notes) -> Iterator[LabelledFrame]:
        for frame in self.frames():
            sample = self._samples.get(frame.name)
            yield LabelledFrame(frame, None if sample is None else labels_of(sample, frame, notes))


def _split_folders(root: Path) -> list[str]:
    """The image folders of a data set's splits; none if `root` is no data set."""
    try:
        layout = find_layout(root)
    except LayoutError:
        return []
    return [str(root / layout.images / split) for split in layout.splits(root)]


def _stamp_ns(index: int, rate_hz: float) -> int:
    return round(index * NS_PER_S / rate_hz)

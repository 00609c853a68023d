"""Recordings that are no bags: video files, and image folders with or without labels."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
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
from mtc_perception.metrics.tasks import GroundTruth
from mtc_perception.replay.recordings.bag import BagSource
from mtc_perception.replay.recordings.bag_files import is_bag
from mtc_perception.replay.recordings.bag_labels import TruthTopics
from mtc_perception.replay.recordings.label_folder import fingerprint, labels_of
from mtc_perception.replay.recordings.recording import (
    NS_PER_S,
    EncodedPixels,
    FrameSource,
    LabelledFrame,
    Notes,
    Pixels,
    RawPixels,
    SourceError,
    SourceFrame,
    SourceInfo,
)
from mtc_perception.util.errors import ImageError

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


def open_source(
    path: Path | str,
    topic: str | None = None,
    fps: float | None = None,
    truth: TruthTopics | None = None,
) -> FrameSource:
    """Open a recording; reads no image yet.

    `topic` chooses the camera of a bag that has several; `fps` is the frame rate of an image folder
    (default 30) or overrides that of a video; `truth` names the topics of a bag's labels, which are
    looked for by default. Raises SourceError saying what to do.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f"{path} does not exist")
    if is_bag(path):
        if fps is not None:
            raise SourceError(f"{path} is a bag and has its own times: leave out --fps")
        return BagSource(path, topic, truth)
    if topic is not None:
        raise SourceError(f"{path} is no bag: leave out --topic")
    if truth is not None:
        raise SourceError(f"{path} is no bag: it has no topics with labels")
    return FolderSource(path, fps) if path.is_dir() else VideoSource(path, fps)


def watched(frames: Iterable[LabelledFrame], notes: Notes) -> Iterator[LabelledFrame]:
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


def fitted(frames: Iterable[LabelledFrame], notes: Notes) -> Iterator[LabelledFrame]:
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
    unlabelled = truth.boxes is None and truth.drivable is None and truth.lane is None
    return None if unlabelled else truth


def _encoding(pixels: Pixels) -> str:
    if isinstance(pixels, RawPixels):
        return f"{pixels.encoding} {pixels.width}x{pixels.height}"
    return getattr(pixels, "format", "")

"""Recordings of every kind: bags, video files, and image folders with or without labels."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2

from mtc_perception.datasets.layout import (
    IMAGE_SUFFIXES,
    LayoutError,
    find_layout,
    image_paths,
    read_split,
    split_of,
)
from mtc_perception.datasets.sample import Problem
from mtc_perception.datasets.split_files import OTHER_SUFFIXES, stem_of, unread_images
from mtc_perception.replay.recordings.bag import Bag
from mtc_perception.replay.recordings.bag_files import first_bytes, is_bag, refuse_foreign
from mtc_perception.replay.recordings.bag_labels import TruthTopics, find_truth_topics
from mtc_perception.replay.recordings.labels import fingerprint, labels_of, note_problems
from mtc_perception.replay.recordings.recording import (
    NS_PER_S,
    EncodedPixels,
    FrameSource,
    LabelledFrame,
    Notes,
    RawPixels,
    SourceError,
    SourceFrame,
    SourceInfo,
)
from mtc_perception.util.files import read_regular

DEFAULT_FOLDER_FPS = 30.0
# How containers begin that hold the times of their images. FFmpeg makes times up for what holds
# none, and takes much for a video that is none.
_VIDEOS = re.compile(
    rb"""
    .{4} (?:ftyp|moov|mdat|wide|free|skip) # MP4, MOV
    | \x1a\x45\xdf\xa3                     # Matroska, WebM
    | RIFF .{4} AVI\x20
    | OggS
    | FLV
    | \x30\x26\xb2\x75                     # WMV
    | \x00\x00\x01\xba                     # MPEG-PS
    | \x47 .{187} \x47                     # MPEG-TS: packets of 188 bytes
    """,
    re.DOTALL | re.VERBOSE,
)


class VideoSource:
    """A video file, decoded by OpenCV to bgr8."""

    def __init__(self, path: Path, fps: float | None = None) -> None:
        """`fps` overrides the file's own frame rate. Raises SourceError."""
        refuse_foreign(path)
        if path.suffix.lower() in OTHER_SUFFIXES:
            raise SourceError(f"{path}: no {path.suffix} is read: convert it to JPEG or PNG")
        if not _VIDEOS.match(first_bytes(path)):
            raise SourceError(
                f"{path} is neither a bag nor a video: bags are .mcap or .db3, and videos "
                "in a container that has times (MP4, MOV, MKV, WebM, AVI, MPEG, Ogg, FLV, WMV)"
            )
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
            raise SourceError(f"{self._path} is no video that OpenCV can read")
        return capture


class FolderSource:
    """The image files of a folder, by name.

    A folder of images of a data set's split, `<root>/images/<split>` for one, has its labels too.
    """

    def __init__(self, path: Path, fps: float | None = None) -> None:
        """Raises SourceError if there is no image."""
        self._files = image_paths(path)
        unread = list(unread_images(path))
        if not self._files and unread and not _split_folders(path):
            raise SourceError(f"{path} holds no image that is read: {unread[0]}")
        if not self._files:
            for file in path.glob("*.bag"):
                refuse_foreign(file)
            splits = _split_folders(path)
            mend = f"give {' or '.join(splits)}" if splits else "give a folder that does"
            raise SourceError(
                f"{path} holds neither images ({', '.join(IMAGE_SUFFIXES)}) nor a bag "
                f"(metadata.yaml): {mend}"
            )
        rate_hz = fps or DEFAULT_FOLDER_FPS
        self.info = SourceInfo(path.name, "images", None, len(self._files), rate_hz)
        data_set = split_of(path)
        self._problems: list[Problem] = []
        samples = read_split(*data_set, self._problems) if data_set else []
        if not data_set:
            self._problems += unread
        self._samples = {sample.stem: sample for sample in samples if sample.labelled}

    def fingerprint(self) -> str:
        """Changes with the labels, which are in other folders."""
        return fingerprint(self._samples.values())

    def frames(self) -> Iterator[SourceFrame]:
        return self._frames(Notes())

    def labelled_frames(self, notes: Notes) -> Iterator[LabelledFrame]:
        note_problems(self._problems, notes)
        for frame in self._frames(notes):
            sample = self._samples.get(frame.name)
            yield LabelledFrame(frame, None if sample is None else labels_of(sample, frame, notes))

    def _frames(self, notes: Notes) -> Iterator[SourceFrame]:
        for index, file in enumerate(self._files):
            try:
                data = read_regular(file)
            except OSError as error:
                notes.add("unreadable image", f"{file}: {error.strerror}")
                data = b""  # an image that cannot be decoded, as any other
            yield SourceFrame(
                index, _stamp_ns(index, self.info.rate_hz), encoded(file, data), stem_of(file.name)
            )


def encoded(file: Path, data: bytes) -> EncodedPixels:
    """The content of an image file."""
    kind = file.suffix.lower().removeprefix(".")
    return EncodedPixels("jpeg" if kind == "jpg" else kind, data)


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
        return _bag(path, fps).source(topic, truth)
    if topic is not None:
        raise SourceError(f"{path} is no bag: leave out --topic")
    if truth is not None:
        raise SourceError(f"{path} is no bag: it has no topics with labels")
    return FolderSource(path, fps) if path.is_dir() else VideoSource(path, fps)


def find_streams(
    path: Path,
    topics: Sequence[str] = (),
    fps: float | None = None,
    truth: TruthTopics | None = None,
) -> list[tuple[str | None, TruthTopics | None]]:
    """The cameras of a recording, `topics` or all there are, and the topics of their labels.

    What is no bag has one camera without a topic. Each is opened, to be refused now rather than
    when its turn comes; the arguments are those of `open_source`, and so is the SourceError.
    """
    if not is_bag(path):
        open_source(path, topics[0] if topics else None, fps, truth)
        return [(None, None)]
    bag = _bag(path, fps)
    cameras = list(dict.fromkeys(topics)) or bag.cameras(truth)
    streams: list[tuple[str | None, TruthTopics | None]] = []
    for camera in cameras:
        labels = truth or find_truth_topics(camera, bag.kinds, cameras)
        bag.source(camera, labels)
        streams.append((camera, labels))
    return streams


def _bag(path: Path, fps: float | None) -> Bag:
    if fps is not None:
        raise SourceError(f"{path} is a bag and has its own times: leave out --fps")
    return Bag(path)

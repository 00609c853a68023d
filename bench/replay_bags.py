"""Recordings to measure replay with: a few images of a drive, repeated for as long as it takes."""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.letterbox import to_rgb
from mtc_perception.core.truth import GroundTruth
from mtc_perception.replay.recordings.recording import (
    NS_PER_S,
    BrokenPixels,
    EncodedPixels,
    LabelledFrame,
    Notes,
    RawPixels,
)
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.recordings.writer import START_NS, BagWriter

RATE_HZ = 30
_TOPIC, _FRAME_ID = "/camera/image_raw", "camera"
_JPEG_QUALITY = 90


def read_clip(drive: Path, images: int) -> list[LabelledFrame]:
    """The first `images` of a recording, with their labels."""
    return list(itertools.islice(open_source(drive).labelled_frames(Notes()), images))


def unlabelled(clip: Sequence[LabelledFrame]) -> list[LabelledFrame]:
    """The images alone."""
    return [LabelledFrame(frame, None) for frame, _ in clip]


def raw(clip: Sequence[LabelledFrame]) -> list[LabelledFrame]:
    """The same images as bgr8."""

    def uncompressed() -> Iterator[LabelledFrame]:
        for frame, truth in clip:
            image = frame.pixels.decode()
            height, width = image.height, image.width
            bgr = np.ascontiguousarray(to_rgb(image)[..., ::-1])
            pixels = RawPixels("bgr8", height, width, 3 * width, bgr.reshape(-1))
            yield LabelledFrame(replace(frame, pixels=pixels), truth)

    return list(uncompressed())


def halved(clip: Sequence[LabelledFrame]) -> list[LabelledFrame]:
    """Images and labels at half the width and height, as JPEG."""

    def smaller() -> Iterator[LabelledFrame]:
        for frame, truth in clip:
            image = frame.pixels.decode()
            size = image.width // 2, image.height // 2
            small = cv2.resize(to_rgb(image)[..., ::-1], size, interpolation=cv2.INTER_AREA)
            _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            pixels = EncodedPixels("jpeg", jpeg.tobytes())
            yield LabelledFrame(replace(frame, pixels=pixels), _halved_truth(truth, size))

    return list(smaller())


def _halved_truth(truth: GroundTruth | None, size: tuple[int, int]) -> GroundTruth | None:
    if truth is None:
        return None
    width, height = size

    def halved(mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_] | None:
        return None if mask is None else np.ascontiguousarray(mask[::2, ::2][:height, :width])

    boxes = None if truth.boxes is None else truth.boxes / 2
    return replace(truth, boxes=boxes, drivable=halved(truth.drivable), lane=halved(truth.lane))


def write_bag(folder: Path, clip: Sequence[LabelledFrame], images: int) -> Path:
    """A rosbag2 of `images` at `RATE_HZ`, those of `clip` over and over, on the disk when done.

    Raw images are stored as they are, as cameras' bags are recorded by default.
    """
    encoded = isinstance(clip[0].frame.pixels, EncodedPixels)
    topic = f"{_TOPIC}/compressed" if encoded else _TOPIC
    with BagWriter(folder, {"made for": "a benchmark"}, compress=encoded) as writer:
        for index, (frame, truth) in zip(range(images), itertools.cycle(clip), strict=False):
            stamp_ns = START_NS + round(index * NS_PER_S / RATE_HZ)
            assert not isinstance(frame.pixels, BrokenPixels), "a clip is of whole images"
            writer.image(topic, stamp_ns, _FRAME_ID, frame.pixels)
            if truth is not None:
                writer.truth(stamp_ns, _FRAME_ID, truth)
    for file in folder.iterdir():
        with file.open("rb") as content:  # or it would be written while something is measured
            os.fsync(content.fileno())
    return folder

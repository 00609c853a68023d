"""Image files and messages that one decoder must read, or refuse, alike; for the toy network."""

import struct
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.truth import GroundTruth
from mtc_perception.replay.recordings.recording import EncodedPixels
from mtc_perception.replay.recordings.writer import START_NS, BagWriter

HEIGHT, WIDTH = 192, 320
"""Twice the toy network's input, so that JPEGs are decoded at half their size."""
LOST_MIDDLE, LOST_END = 2, 4
"""Images of a drive that libjpeg would decode with a warning on stderr; they have an end mark."""
COUNT = 6


def road(seed: int) -> npt.NDArray[np.uint8]:
    """uint8 RGB, red where it is drivable, with noise as real images have it."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 90, (HEIGHT, WIDTH, 3), np.uint8)
    rgb[100 + 10 * seed :, :, 0] += 150
    return rgb


def jpeg(rgb: npt.NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes()


def damaged(index: int, data: bytes) -> bytes:
    """The data, or less of it where the image is to be a damaged one."""
    third = len(data) // 3
    if index == LOST_MIDDLE:
        return data[:third] + data[-third:]
    return data[:-third] + data[-2:] if index == LOST_END else data


def with_orientation(data: bytes, value: int) -> bytes:
    tiff = b"MM\0\x2a" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, value, 0, 0)
    exif = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def write_sample(root: Path, stem: str, data: bytes, drivable: npt.NDArray[np.bool_]) -> None:
    (root / "images/val").mkdir(parents=True, exist_ok=True)
    (root / "drivable/val").mkdir(parents=True, exist_ok=True)
    (root / f"images/val/{stem}.jpg").write_bytes(data)
    cv2.imwrite(str(root / f"drivable/val/{stem}.png"), drivable.astype(np.uint8) * 255)


def data_set(root: Path) -> Path:
    """One image of every kind that is read: as it is, turned, WebP named .jpg, grey."""
    for index, (stem, value, turns) in enumerate(
        (("as_is", 1, 0), ("left", 6, -1), ("over", 3, 2))
    ):
        rgb = road(index)
        drivable = np.rot90(rgb[..., 0] >= 150, turns)
        write_sample(root, stem, with_orientation(jpeg(rgb), value), drivable)
    rgb = road(3)
    webp = cv2.imencode(".webp", rgb[..., ::-1])[1].tobytes()
    write_sample(root, "webp", webp, rgb[..., 0] >= 150)
    return root


def drive(path: Path) -> Path:
    with BagWriter(path, {"made for": "a test"}) as writer:
        for index in range(COUNT):
            rgb = road(index)
            stamp_ns = START_NS + 200_000_000 * index
            data = damaged(index, with_orientation(jpeg(rgb), 1 if index else 3))
            writer.image(
                "/front/image_raw/compressed", stamp_ns, "front", EncodedPixels("jpeg", data)
            )
            mask = rgb[..., 0] >= 150
            truth = GroundTruth(None, None, mask if index else mask[::-1, ::-1], None)
            writer.truth(stamp_ns, "front", truth)
    return path


def damaged_data_set(root: Path) -> Path:
    """The images of `drive`, but for the first one's orientation, as files."""
    for index in range(COUNT):
        rgb = road(index)
        write_sample(root, f"{index}", damaged(index, jpeg(rgb)), rgb[..., 0] >= 150)
    return root

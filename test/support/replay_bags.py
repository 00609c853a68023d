"""Small bags with labels for tests of replay, made for the toy network (see toy_bundle.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtc_perception.core.truth import GroundTruth
from mtc_perception.replay.recordings.recording import EncodedPixels
from mtc_perception.replay.recordings.writer import START_NS, BagWriter

HEIGHT, WIDTH = 96, 160
TOPIC = "/front/image_raw/compressed"


def picture(seed: int) -> np.ndarray:
    """uint8 RGB of blocks, another one for every seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 10, 3), np.uint8)
    return blocks.repeat(16, axis=0).repeat(16, axis=1)


def stamps(count: int, rate_hz: float) -> list[int]:
    return [START_NS + round(index * 1e9 / rate_hz) for index in range(count)]


class _SteadyWriter(BagWriter):
    """Records at a steady rate, whatever the stamps are."""

    recorded_ns = START_NS

    def _write(self, topic: str, stamp_ns: int, message: Any) -> None:
        super()._write(topic, self.recorded_ns, message)


def write_drive(
    path: Path, stamps_ns: Sequence[int], *, seed: int = 0, broken: Sequence[int] = ()
) -> Path:
    """A bag of PNG images with labels; those at the indices `broken` are truncated.

    The labels are right about the drivable area and half right about lanes, and there is one box.
    """
    with _SteadyWriter(path, {"made for": "a test"}) as writer:
        for index, stamp_ns in enumerate(stamps_ns):
            writer.recorded_ns += 100_000_000
            rgb = picture(1000 * seed + index)
            png = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
            data = png[: len(png) // 2] if index in broken else png
            writer.image(TOPIC, stamp_ns, "front", EncodedPixels("png", data))
            lane = rgb[..., 1] >= 128
            lane[: HEIGHT // 2] = False
            box = np.array([[0, 0, WIDTH / 2, HEIGHT / 2]])
            truth = GroundTruth(box, None, rgb[..., 0] >= 128, lane)
            writer.truth(stamp_ns, "front", truth)
    return path

"""Draws results onto the images of a recording."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.overlay import draw_overlay
from mtc_perception.core.perception import Perception, StageTimes
from mtc_perception.metrics.tasks import GroundTruth

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE, _RED = (255, 255, 255), (230, 60, 60)
_NO_TIMES = StageTimes(0.0, 0.0, 0.0)

Rgb = npt.NDArray[np.uint8]
"""uint8 [H, W, 3]"""


def draw_answer(rgb: Rgb, answer: Perception | None, classes: Sequence[str]) -> Rgb:
    """The image with its answer, or greyed where there is none."""
    if answer is None:
        grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return np.asarray(grey, np.uint8)
    return draw_overlay(rgb, answer, classes)


def draw_truth(rgb: Rgb, truth: GroundTruth) -> Rgb:
    """The image with its labels."""
    empty = np.zeros(rgb.shape[:2], np.uint8)
    boxes = np.zeros((0, 4), np.float32) if truth.boxes is None else truth.boxes
    ignore = np.zeros(len(boxes), np.bool_) if truth.ignore is None else truth.ignore
    perception = Perception(
        boxes=np.asarray(boxes, np.float32),
        scores=np.ones(len(boxes), np.float32),
        labels=ignore.astype(np.int32),
        drivable=empty if truth.drivable is None else truth.drivable.astype(np.uint8) * 255,
        lane=empty if truth.lane is None else truth.lane.astype(np.uint8) * 255,
        times=_NO_TIMES,
    )
    return draw_overlay(rgb, perception, None)


def add_caption(rgb: Rgb, text: str, *, alarm: bool = False) -> Rgb:
    """The image, changed in place, with a line of text on a dark strip along its lower edge."""
    height = rgb.shape[0]
    scale = max(height / 1000, 0.35)
    (_, text_height), baseline = cv2.getTextSize(text, _FONT, scale, 1)
    top = max(height - text_height - 2 * baseline - 2, 0)
    rgb[top:] = rgb[top:] // 4
    color = _RED if alarm else _WHITE
    origin = (baseline, height - baseline)
    cv2.putText(rgb, text, origin, _FONT, scale, color, 1, cv2.LINE_AA)
    return rgb


def shrink(rgb: Rgb, width: int) -> Rgb:
    """The image at most `width` pixels wide, its sides even as video codecs want them."""
    scale = min(width / rgb.shape[1], 1.0)
    size = tuple(max(round(side * scale / 2) * 2, 2) for side in rgb.shape[1::-1])
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def jpeg(rgb: Rgb, quality: int = 85) -> bytes:
    """The image as a JPEG file."""
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data.tobytes())

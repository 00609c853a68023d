"""From raw network outputs to boxes and masks in source pixels."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.engine import Outputs
from mtc_perception.core.letterbox import Letterbox

SCORE_FLOOR = 0.001
"""Detections below this cannot change any figure of accuracy, only cost time."""


def decode_boxes(
    outputs: Outputs, letterbox: Letterbox, threshold: float, max_detections: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Boxes `[n, 4]` in source pixels, scores `[n]` and labels `[n]` of the first image.

    At most `max_detections`, none below `threshold`, none without area inside the image.
    """
    scores = outputs.scores[0, :max_detections]
    count = int(np.count_nonzero(scores >= np.float32(threshold)))  # they are sorted
    boxes = letterbox.boxes_to_source(outputs.boxes[0, :count])
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    labels = outputs.labels[0, :count][inside].astype(np.int32)
    return boxes[inside], scores[:count][inside], labels


def decode_mask(
    probability: npt.NDArray[np.uint8], letterbox: Letterbox, threshold: float
) -> npt.NDArray[np.uint8]:
    """A new mask in source pixels, 255 where the probability (x 255) reaches `threshold`, else 0.

    The probability is interpolated before it is compared: that puts the mask's edge where the
    network saw it rather than on the network's coarser pixels.
    """
    mask = letterbox.mask_to_source(probability)
    return binary_mask(mask, threshold, out=mask)


def binary_mask(
    probability: npt.NDArray[np.uint8],
    threshold: float,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """255 where the probability (x 255) reaches `threshold`, else 0; written to `out` if given."""
    # OpenCV's threshold keeps what is greater.
    level = threshold_level(threshold) - 1
    _, mask = cv2.threshold(probability, level, 255, cv2.THRESH_BINARY, dst=out)
    return mask.astype(np.uint8, copy=False)


def threshold_level(threshold: float) -> int:
    """Smallest uint8 probability (x 255) that a threshold in 0..1 calls foreground."""
    # Rounding: 0.2 + 0.4 is a little above 0.6 and must mean level 153 too.
    return max(0, min(255, math.ceil(round(threshold * 255.0, 6))))

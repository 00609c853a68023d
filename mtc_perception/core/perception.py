"""What perceiving one image yields, in its pixels, and how it is read off a network's outputs."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.engine import Outputs
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.tasks import TASKS, Task
from mtc_perception.util.errors import EngineError

SCORE_FLOOR = 0.001
"""Detections below this cannot change any figure of accuracy, only cost time."""
BOX_MARGIN_PX = 1.0
"""float16 has steps of half a pixel from 512 on."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Wall time each stage of `Perceiver` took for one image, in milliseconds."""

    preprocess_ms: float
    inference_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Perception:
    """Vehicles, drivable area and lane lines of one image of height H and width W.

    The arrays belong to the receiver: no later frame writes into them. Of tasks that the network
    lacks there are no boxes, or None for the mask.
    """

    size: tuple[int, int]
    """H, W"""

    boxes: npt.NDArray[np.float32]
    """[n, 4] x1, y1, x2, y2 in source pixels (pixel edges, clipped to the image)."""
    scores: npt.NDArray[np.float32]
    """[n] descending, in 0..1."""
    labels: npt.NDArray[np.int32]
    """[n] index into the bundle's class names."""
    drivable: npt.NDArray[np.uint8] | None
    """[H, W], 255 where drivable, else 0."""
    lane: npt.NDArray[np.uint8] | None
    """[H, W], 255 where lane paint, else 0."""
    times: StageTimes
    tasks: tuple[Task, ...] = TASKS
    """What was looked for."""


def check_outputs(outputs: Outputs, class_count: int, size: tuple[int, int]) -> None:
    """Raise EngineError unless all outputs for the first image can be those of a network.

    `size` is the network's, height and width. Cheap enough for every image: a device that
    fails may answer all the same.
    """
    if outputs.scores.size:
        _check_candidates(outputs, class_count)
    for mask in (outputs.drivable, outputs.lane):
        if mask is not None and (mask.dtype != np.uint8 or mask.shape[1:] != size):
            raise EngineError(f"masks are not bytes of {size[1]}x{size[0]} pixels")


def _check_candidates(outputs: Outputs, class_count: int) -> None:
    boxes, scores, labels = outputs.boxes[0], outputs.scores[0], outputs.labels[0]
    # No comparison with what is no number is true.
    within = scores[-1] >= 0.0 and scores[0] <= 1.0
    if not (within and (scores[1:] <= scores[:-1]).all()):
        raise EngineError("scores are not numbers within 0..1 in descending order")
    if labels.min() < 0 or labels.max() >= class_count:
        raise EngineError(f"labels are not all within the {class_count} classes")
    if not np.isfinite(boxes).all():
        raise EngineError("boxes are not all finite numbers")
    scored = boxes[: np.count_nonzero(scores)]
    if (scored[:, 2:] - scored[:, :2]).min(initial=0.0) < -BOX_MARGIN_PX:
        raise EngineError("boxes have their corners in the wrong order")


def decode_boxes(
    outputs: Outputs, letterbox: Letterbox, threshold: float, max_detections: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Boxes `[n, 4]` in source pixels, scores `[n]` and labels `[n]` of the first image.

    At most `max_detections`, none below `threshold`, none without area inside the image.
    """
    scores = outputs.scores[0, :max_detections]
    chosen = np.flatnonzero(scores >= np.float32(threshold))
    boxes = letterbox.boxes_to_source(outputs.boxes[0, chosen])
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    chosen = chosen[inside]
    return boxes[inside], scores[chosen], outputs.labels[0, chosen].astype(np.int32)


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

"""What perceiving one image yields: plain arrays in the source image's pixels."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TASKS = ("detection", "drivable", "lane")
"""Names of the tasks, in the order of everything that is kept per task."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Wall time each stage of `Perceiver` took for one image, in milliseconds."""

    preprocess_ms: float
    inference_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Perception:
    """Vehicles, drivable area and lane lines of one image of height H and width W.

    The arrays belong to the receiver: no later frame writes into them.
    """

    boxes: npt.NDArray[np.float32]
    """[n, 4] x1, y1, x2, y2 in source pixels (pixel edges, clipped to the image)."""
    scores: npt.NDArray[np.float32]
    """[n] descending, in 0..1."""
    labels: npt.NDArray[np.int32]
    """[n] index into the bundle's class names."""
    drivable: npt.NDArray[np.uint8]
    """[H, W], 255 where drivable, else 0."""
    lane: npt.NDArray[np.uint8]
    """[H, W], 255 where lane paint, else 0."""
    times: StageTimes

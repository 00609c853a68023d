"""What an image shows according to its labels: data sets yield it, metrics and pictures use it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """Labels of one image of height H and width W; None where a task is unlabelled."""

    boxes: npt.NDArray[np.floating] | None = None
    """[n, 4] x1, y1, x2, y2 in image pixels."""
    ignore: npt.NDArray[np.bool_] | None = None
    """[n] boxes that are ignore regions; None means none of them."""
    drivable: npt.NDArray[np.bool_] | None = None
    """[H, W]"""
    lane: npt.NDArray[np.bool_] | None = None
    """[H, W]"""

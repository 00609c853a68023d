"""Boxes made from semantic masks: what something in front cuts off a vehicle has a box of its own.

A network that is to find such pieces covers vehicles with small boxes.
"""

import numpy as np
import numpy.typing as npt

SMALL = 0.05
"""Of the image's height: a piece is thinner than this."""
LARGER = 3.0
"""The vehicle beside it has at least this many times its area."""
NEAR = 0.01
"""Of the image's width: a piece is no further from its vehicle."""


def fragments(boxes: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.bool_]:
    """[n] which of the boxes [n, 4] x1, y1, x2, y2 of one image may be pieces of another one.

    A far vehicle beside a near one may be among them: nobody can tell by boxes alone.
    """
    size = boxes[:, 2:] - boxes[:, :2]
    area = size.prod(1)
    gap = np.maximum(
        boxes[:, None, :2] - boxes[None, :, 2:], boxes[None, :, :2] - boxes[:, None, 2:]
    )
    beside = (gap.max(2, initial=-np.inf) <= NEAR * width) & (area[None] >= LARGER * area[:, None])
    found: npt.NDArray[np.bool_] = beside.any(1) & (size.min(1, initial=np.inf) < SMALL * height)
    return found

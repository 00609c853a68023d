"""What a download holds: its images, and how the labels of each are read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtc_perception.datasets.sample import BrokenFile, Problem

Mask = npt.NDArray[np.bool_]
Corners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """One object of an image."""

    corners: Corners
    """x1, y1, x2, y2 in pixels of the image (pixel edges)."""
    category: str
    """As the data set calls it."""
    crowd: bool = False
    """A region to ignore: several objects, or parts of one."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameLabels:
    """Labels of one image; `None` means unlabelled. Masks are bool [H, W], of the image's size."""

    drivable: Mask | None = None
    lane: Mask | None = None
    boxes: tuple[Box, ...] | None = None
    problems: tuple[Problem, ...] = ()
    """What is odd about labels that are used all the same."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One image of a download."""

    split: str
    stem: str
    """What the image and its labels are called in the project's layout, without a suffix."""
    image: Path
    labels: Callable[[tuple[int, int]], FrameLabels]
    """Reads the labels of the image, given its height and width. Raises LayoutError."""


def refused(problem: Problem, _size: tuple[int, int]) -> FrameLabels:
    """The labels of an image of which it is known before that they cannot be used."""
    raise BrokenFile(problem)

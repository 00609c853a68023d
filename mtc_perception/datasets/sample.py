"""What every data layout is turned into: samples, and the problems found on the way."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mtc_perception.util.errors import UserError

Kind = Literal[
    "empty file",
    "duplicate name",
    "labels fit no image",
    "unreadable labels",
    "unusable box",
    "labels of another size",
    "split without labels",
    "unreadable image",
    "image that is not looked at",
    "unreadable mask",
    "mask of another size",
    "unexpected mask values",
    "label outside the image",
    "label without image",
    "label of another spelling",
    "image without label",
]
HARMLESS: frozenset[Kind] = frozenset(
    ("unusable box", "label without image", "image without label")
)
"""Kinds that are worth knowing but break nothing: public data sets have them, and parts of one."""
REFUSED: frozenset[Kind] = frozenset(("duplicate name", "labels fit no image"))
"""Kinds with which nobody can tell whose labels are whose."""


class LayoutError(UserError):
    """A data set is missing, incomplete or broken."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one file."""

    kind: Kind
    path: Path
    reason: str
    stem: str | None = None
    """Of the one image whose label this is; None: of several, or of no label."""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class BrokenFile(LayoutError):
    """A file that does not decode, or does not fit its image."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True, eq=False)
class MaskCoding:
    """How the grey values of a mask are to be read; both tables are bool [256]."""

    name: str
    foreground: npt.NDArray[np.bool_]
    expected: npt.NDArray[np.bool_]
    strict: bool = False
    """A mask with an unexpected value is refused when it is read, not only reported."""


def _table(values: Iterable[int]) -> npt.NDArray[np.bool_]:
    table = np.zeros(256, dtype=np.bool_)
    table[list(values)] = True
    return table


_LANE_BACKGROUND = 0b1000
_LANE_UNUSED = 0b1100_0000
_ROAD_CURB = 4

BINARY = MaskCoding("0 or 255", _table(range(128, 256)), _table((0, 255)))
"""The project's own masks, and those `synth` writes."""
NONZERO = MaskCoding("0, else foreground", _table(range(1, 256)), _table((0, 1, 2, 127, 128, 255)))
"""Masks of YOLOP and RMT-PPAD: 0/1, 0/255 or 0/127/255 (alternative and direct area)."""
COLOURS = MaskCoding("black, else foreground", _table(range(1, 256)), _table(range(256)))
"""BDD100K colour maps, for looking at; used where nothing better was downloaded."""
BDD_DRIVABLE = MaskCoding(
    "0 direct, 1 alternative, 2 background", _table((0, 1)), _table(range(3)), strict=True
)
"""BDD100K drivable masks; direct and alternative area are one class, as in YOLOP."""
BDD_LANE = MaskCoding(
    "BDD100K lane bits",
    _table(v for v in range(256) if not v & _LANE_BACKGROUND and v & 0b111 != _ROAD_CURB),
    _table([*(v for v in range(256) if not v & (_LANE_BACKGROUND | _LANE_UNUSED)), 255]),
    strict=True,
)
"""BDD100K lane masks: bits 0 to 2 category, 3 background, 4 style, 5 direction; 255 background.

Road curbs carry no paint and are background here.
"""


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask stored as a one-channel image of its image's size."""

    path: Path
    coding: MaskCoding


@dataclass(frozen=True, slots=True, eq=False)
class MaskShapes:
    """A mask stored as polygons or lines, drawn when it is read."""

    path: Path
    """The label file they come from, to be named in messages."""
    points: npt.NDArray[np.float32]
    """[n, 2] x, y in image pixels (pixel edges) of all shapes, one after the other."""
    ends: npt.NDArray[np.int32]
    """[shapes] index past each shape's last point."""
    width_px: int | None
    """Shapes are lines of this width in image pixels; None: filled polygons."""

    def shapes(self) -> list[npt.NDArray[np.float32]]:
        """The points of each shape, [k, 2]."""
        return np.split(self.points, self.ends[:-1]) if len(self.ends) else []


MaskSource = MaskFile | MaskShapes


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image and its labels; `None` means unlabelled for that task."""

    stem: str
    image_path: Path
    drivable: MaskSource | None
    lane: MaskSource | None
    boxes: npt.NDArray[np.float32] | None
    """[n, 4] x1, y1, x2, y2 in image pixels (pixel edges); see `boxes_are_fractions`."""
    ignore: npt.NDArray[np.bool_] | None
    """[n] COCO `iscrowd`: neither a target to train on nor a miss or false alarm to count."""
    attributes: dict[str, str] = field(default_factory=dict)
    """BDD100K: weather, scene, timeofday. Empty elsewhere."""
    boxes_are_fractions: bool = False
    """`boxes` are fractions of the image's width and height; `read_truth` gives pixels."""
    categories: tuple[str, ...] = ()
    """[n] what is in each of the boxes, as the data set calls it."""
    stated_size: tuple[int, int] | None = None
    """Height and width of the image that the boxes are of, where their file says so."""

    @property
    def labelled(self) -> bool:
        """Whether any task is labelled."""
        return not (self.boxes is None and self.drivable is None and self.lane is None)


BoxRow = tuple[tuple[float, float, float, float], bool, str]
"""x1, y1, x2, y2, whether it is an ignore region, and what is in it."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes of one image: [n, 4] float32, [n] bool and [n] names, as in Sample."""

    boxes: npt.NDArray[np.float32]
    ignore: npt.NDArray[np.bool_]
    categories: tuple[str, ...]

    @classmethod
    def of(cls, rows: Iterable[BoxRow]) -> "Boxes":
        """From the rows of all boxes."""
        rows = list(rows)
        return cls(
            np.array([box for box, _, _ in rows], dtype=np.float32).reshape(-1, 4),
            np.array([ignore for _, ignore, _ in rows], dtype=np.bool_),
            # One object per name, however many boxes a data set has.
            tuple(sys.intern(category) for _, _, category in rows),
        )


@dataclass(slots=True)
class Labels:
    """Labels of one split by image stem, and what was wrong with their files.

    What cannot be read is not here, so that its image is unlabelled, and a problem.
    """

    drivable: dict[str, MaskSource] = field(default_factory=dict)
    lane: dict[str, MaskSource] = field(default_factory=dict)
    boxes: dict[str, Boxes] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Height and width of the image that boxes are of, where their file says so."""
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    boxes_are_fractions: bool = False
    origin: dict[str, Path] = field(default_factory=dict)
    """The file each stem's boxes come from."""
    problems: list[Problem] = field(default_factory=list)

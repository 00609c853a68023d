"""Label images of public data sets: classes, instances and colours, and boxes made of them."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.datasets.sample import BrokenFile, Problem
from mtc_perception.util.files import read_regular
from offline_compress.convert.frames import Box, Corners, Mask

_MOST_UNKNOWN = 0.01
"""Part of a label image that may have values that its data set does not know: edges, mistakes."""
_LEAST_PART = 80 / (480 * 360)
"""Part of an image that a piece of a semantic mask must cover to be an object."""
_HEAP_PART = 400 / (480 * 360)
"""The same, from which on a piece may be several vehicles that touch."""
_OPENING = np.ones((3, 3), np.uint8)


def read_ids(path: Path, size: tuple[int, int]) -> npt.NDArray[Any]:
    """Grey values [H, W] of a label image, uint8 or uint16, of an image of `size`.

    Raises BrokenFile, also for colours.
    """
    pixels = _read(path, size, cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 3:
        if (pixels[..., :1] != pixels[..., 1:3]).any():
            raise _broken(path, "label image has colours where grey values are expected")
        pixels = pixels[..., 0]
    return pixels


def read_colours(
    path: Path, size: tuple[int, int], known: Collection[int]
) -> npt.NDArray[np.int32]:
    """Colours [H, W] of a label image as 0xRRGGBB.

    Raises BrokenFile, also where more than a few pixels are none of the `known` ones.
    """
    blue, green, red = np.moveaxis(_read(path, size, cv2.IMREAD_COLOR).astype(np.int32), -1, 0)
    colours = red << 16 | green << 8 | blue
    odd = ~np.isin(colours, list(known))
    if odd.mean() > _MOST_UNKNOWN:
        raise _broken(path, f"colour #{int(colours[odd][0]):06x} is of no class of the data set")
    return np.asarray(colours)


def boxes_of_components(mask: Mask, category: str) -> Iterator[Box]:
    """A box around each connected piece of a semantic mask.

    Lines between objects that are one pixel wide part them. Tiny pieces are none, and what looks
    like several vehicles in a row, wide and with notches, is a crowd.
    """
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _OPENING)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    for piece in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[piece])
        if area < _LEAST_PART * mask.size:
            continue
        own = (pieces[y : y + height, x : x + width] == piece).astype(np.uint8)
        heap = area >= _HEAP_PART * mask.size and (
            width > 2.8 * height or (width > 1.25 * height and _solidity(own) < 0.86)
        )
        yield Box((x, y, x + width, y + height), category, heap)


def bounds(mask: Mask) -> Corners:
    """The box around all of a mask that is not empty."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, x + width, y + height


def _solidity(piece: npt.NDArray[np.uint8]) -> float:
    """Part of the convex hull of a piece that it covers."""
    outlines, _ = cv2.findContours(piece, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(np.concatenate(outlines))
    filled = cv2.fillConvexPoly(np.zeros_like(piece), hull, 1)
    return float(piece.sum() / max(int(filled.sum()), 1))


def _read(path: Path, size: tuple[int, int], flags: int) -> npt.NDArray[Any]:
    try:
        data = np.frombuffer(read_regular(path), np.uint8)
    except OSError as error:
        raise BrokenFile(Problem("unreadable mask", path, str(error.strerror or error))) from None
    pixels = cv2.imdecode(data, flags) if data.size else None
    if pixels is None:
        raise BrokenFile(Problem("unreadable mask", path, "not a readable image"))
    if pixels.shape[:2] != size:
        found = f"label image is {pixels.shape[1]}x{pixels.shape[0]}, its image {size[1]}x{size[0]}"
        raise BrokenFile(Problem("mask of another size", path, found))
    return pixels


def _broken(path: Path, reason: str) -> BrokenFile:
    return BrokenFile(Problem("unexpected mask values", path, reason))

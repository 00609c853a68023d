"""Pixels from files: images, masks as files and masks as shapes."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.layouts.sample import (
    BINARY,
    BrokenFile,
    Kind,
    MaskFile,
    MaskShapes,
    MaskSource,
    Problem,
)

_SUBPIXEL_BITS = 4


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Decode one image to uint8 [H, W, 3] RGB. Raises LayoutError naming a file that fails."""
    pixels = _decode(path, cv2.IMREAD_COLOR, "unreadable image")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def read_mask(source: MaskSource, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask of an image of `size` (height, width) as bool [H, W], true on foreground.

    Raises LayoutError naming a file that fails, has another size than its image, or is no mask
    of its layout.
    """
    if isinstance(source, MaskShapes):
        return draw_shapes(source, size)
    return foreground(read_mask_values(source.path, size), source)


def read_mask_values(path: Path, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The grey values of a mask file of an image of `size`, uint8 [H, W]. Raises LayoutError."""
    pixels = _decode(path, cv2.IMREAD_GRAYSCALE, "unreadable mask")
    if pixels.shape != size:
        found = f"mask is {pixels.shape[1]}x{pixels.shape[0]}, its image {size[1]}x{size[0]}"
        raise BrokenFile(Problem("mask of another size", path, found))
    return pixels


def foreground(values: npt.NDArray[np.uint8], source: MaskFile) -> npt.NDArray[np.bool_]:
    """Which grey values of a mask file are foreground; same shape. Raises LayoutError."""
    coding = source.coding
    if coding is BINARY:
        # A mask of 0 and 1 would pass for an empty one.
        if 0 < (largest := int(values.max(initial=0))) < 128:
            reason = f"mask has values up to {largest} where 0 or 255 is expected"
            raise BrokenFile(Problem("unexpected mask values", source.path, reason))
        return values > 127
    table = coding.foreground.astype(np.uint8)
    return np.asarray(cv2.LUT(values, table)).view(np.bool_)


def draw_shapes(source: MaskShapes, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Draw lines of `width_px`, or filled polygons, into a bool [H, W] mask of `size`."""
    mask = np.zeros(size, dtype=np.uint8)
    # Points count from pixel edges, cv2 from pixel centres.
    shapes = [
        np.round((shape - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        for shape in source.shapes()
    ]
    if source.width_px is None:
        for shape in shapes:  # One by one: fillPoly empties where polygons overlap.
            cv2.fillPoly(mask, [shape], 1, cv2.LINE_8, _SUBPIXEL_BITS)
    else:
        cv2.polylines(mask, shapes, False, 1, source.width_px, cv2.LINE_8, _SUBPIXEL_BITS)
    return mask.view(np.bool_)


def _decode(path: Path, flags: int, kind: Kind) -> npt.NDArray[np.uint8]:
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise BrokenFile(Problem(kind, path, str(error.strerror or error))) from None
    # The size is checked first because cv2 raises on an empty buffer but returns None on garbage.
    pixels = cv2.imdecode(data, flags) if data.size else None
    if pixels is None:
        raise BrokenFile(Problem(kind, path, "not a readable image"))
    return np.asarray(pixels, dtype=np.uint8)

"""Pixels from files: images, masks as files and masks as shapes."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.image_header import read_header
from mtc_perception.core.images import SourceImage, decode_compressed
from mtc_perception.core.input_size import InputSize
from mtc_perception.core.letterbox import to_rgb
from mtc_perception.datasets.sample import (
    BINARY,
    COLOURS,
    BrokenFile,
    Kind,
    MaskFile,
    MaskShapes,
    MaskSource,
    Problem,
)
from mtc_perception.util.errors import ImageError
from mtc_perception.util.files import read_regular

_SUBPIXEL_BITS = 4
_PNG_COLOUR_TYPE = 25
"""Byte of a PNG file that says how its pixels are stored."""
_PNG_PALETTE = 3
_OPAQUE = 255

BORDER_PX = 1.5
"""How far a label may reach out of its image: data sets count pixels from 0, 0.5 or 1."""


def read_source(path: Path, fit: InputSize | None = None) -> SourceImage:
    """Decode one image; `fit` as of `decode_compressed`.

    Raises LayoutError naming a file that fails.
    """
    try:
        return decode_compressed(_content(path, "unreadable image"), fit)
    except ImageError as error:
        raise BrokenFile(Problem("unreadable image", path, str(error))) from error


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Decode one image to uint8 [H, W, 3] RGB. Raises LayoutError naming a file that fails."""
    image = read_source(path)
    return image.pixels if image.format == "rgb" else to_rgb(image)


def outside(points: npt.NDArray[np.float32], size: tuple[int, int]) -> str | None:
    """What is wrong with points [n, k, 2] x, y that lie outside of an image; None if all lie in."""
    height, width = size
    least = points >= -BORDER_PX
    most = points <= np.array([width, height]) + BORDER_PX
    inside = (least & most).all((1, 2))
    if inside.all():
        return None
    values = ", ".join(f"{value:g}" for value in points[~inside][0].ravel())
    return f"({values}) reaches out of its {width}x{height} image"


def other_size(path: Path, size: tuple[int, int], stated: tuple[int, int] | None) -> Problem | None:
    """What is wrong where the labels of an image of `size` are of one of the size `stated`."""
    if stated is None or stated == size:
        return None
    is_, of = (f"{width}x{height}" for height, width in (size, stated))
    header = read_header(read_regular(path))
    if stated == (header.stored_height, header.stored_width):
        reason = (
            f"its labels are of {of}, as its pixels are stored, and its EXIF turns it to {is_}: "
            "remove its EXIF orientation, or label it as viewers show it"
        )
    else:
        reason = (
            f"its labels are of {of}, the image is {is_}: give the image that was labelled, or "
            "scale its labels, their width and height too"
        )
    return Problem("labels of another size", path, reason, path.stem)


def read_mask(source: MaskSource, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask of an image of `size` (height, width) as bool [H, W], true on foreground.

    Raises LayoutError naming a file that fails, has another size than its image, or is no mask
    of its layout.
    """
    if isinstance(source, MaskShapes):
        return draw_shapes(source, size)
    return foreground(read_mask_values(source, size), source)


def read_mask_values(source: MaskFile, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The grey values of a mask file of an image of `size`, uint8 [H, W]. Raises LayoutError.

    Values that could only be guessed are refused: palette indices, of which cv2 makes colours,
    16-bit values, colours that are no grey, what is partly transparent, which may be the mask, and
    other files than PNG, which may be exact only nearly. Colour maps are read as their brightness.
    """
    path = source.path
    data = np.frombuffer(_content(path, "unreadable mask"), np.uint8)
    any_colour = source.coding is COLOURS
    flags = cv2.IMREAD_GRAYSCALE if any_colour else cv2.IMREAD_UNCHANGED
    # The size is checked first because cv2 raises on an empty buffer but returns None on garbage.
    pixels = cv2.imdecode(data, flags) if data.size else None
    if pixels is None:
        raise BrokenFile(Problem("unreadable mask", path, "not a readable image"))
    if pixels.shape[:2] != size:
        found = f"mask is {pixels.shape[1]}x{pixels.shape[0]}, its image {size[1]}x{size[0]}"
        raise BrokenFile(Problem("mask of another size", path, found))
    stored = None if any_colour else _not_grey(data, pixels)
    if stored:
        reason = (
            f"mask is stored as {stored}: convert it to 8-bit grey values ({source.coding.name})"
        )
        raise BrokenFile(Problem("unexpected mask values", path, reason))
    return pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., 0])


def _not_grey(data: npt.NDArray[np.uint8], pixels: npt.NDArray[Any]) -> str | None:
    """How an image is stored if not as 8-bit grey values; `data` is its file, `pixels` decoded."""
    if data[:4].tobytes() != b"\x89PNG":
        return "something else than PNG"
    if data[_PNG_COLOUR_TYPE] == _PNG_PALETTE:
        return "palette indices"
    if pixels.dtype != np.uint8:
        return f"{8 * pixels.itemsize}-bit values"
    if pixels.ndim == 3 and (pixels[..., :1] != pixels[..., 1:3]).any():
        return "colours"
    if pixels.ndim == 3 and (pixels[..., 3:] != _OPAQUE).any():
        return "partly transparent pixels"
    return None


def foreground(values: npt.NDArray[np.uint8], source: MaskFile) -> npt.NDArray[np.bool_]:
    """Which grey values of a mask file are foreground; same shape. Raises LayoutError."""
    coding = source.coding
    if coding is BINARY:
        # A mask of 0 and 1 would pass for an empty one.
        if 0 < (largest := int(values.max(initial=0))) < 128:
            reason = f"mask has values up to {largest} where 0 or 255 is expected"
            raise BrokenFile(Problem("unexpected mask values", source.path, reason))
        return values > 127
    odd = coding.strict and cv2.LUT(values, (~coding.expected).astype(np.uint8)).any()
    if odd and (problem := unexpected_values(values, source)):
        raise BrokenFile(problem)
    table = coding.foreground.astype(np.uint8)
    return np.asarray(cv2.LUT(values, table)).view(np.bool_)


def unexpected_values(values: npt.NDArray[np.uint8], source: MaskFile) -> Problem | None:
    """Which grey values of a mask file its coding does not have; None if there are none."""
    counts = np.bincount(values.ravel(), minlength=256)
    odd = np.flatnonzero((counts > 0) & ~source.coding.expected).tolist()
    if not odd:
        return None
    some = ", ".join(map(str, odd[:3])) + (", ..." if len(odd) > 3 else "")
    reason = f"mask has values {some} (expected: {source.coding.name})"
    return Problem("unexpected mask values", source.path, reason)


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


def _content(path: Path, kind: Kind) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise BrokenFile(Problem(kind, path, str(error.strerror or error))) from None

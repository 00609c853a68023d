"""What the header of a compressed image says: its kind, its size and which way up it is."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mtc_perception.util.errors import ImageError

Kind = Literal["JPEG", "PNG", "WebP"]
QUOTED_CHARS = 40
"""So much is told of what a message calls its encoding or format; it may be of any length."""

_STARTS: dict[Kind, bytes] = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "WebP": b"RIFF"}
# In the format of a message: `jpeg`, or image_transport's `rgb8; jpeg compressed bgr8`.
_READABLE = re.compile(r"jpe?g|png|webp", re.IGNORECASE)
# What else comes in files and messages of images; where it begins, how, and what it is.
_OTHERS = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"\0\0\0\x0cjP", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyp", "HEIF"),
    (0, b"\0\0\0\1", "H.264 or H.265 video"),
    (0, b"\0\0\1", "H.264 or H.265 video"),
    (0, b"\x28\xb5\x2f\xfd", "packed by zstd"),
    (12, _STARTS["PNG"], "a depth image (compressedDepth)"),
)
_FRAME_PROGRESSIVE, _SCAN, _END = 0xC2, 0xDA, 0xD9
# What is neither data of a scan nor a restart mark.
_MARK = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_ORIENTATION = 0x112


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The beginning of a JPEG, PNG or WebP file."""

    kind: Kind
    stored_height: int
    stored_width: int
    orientation: int
    """As EXIF has it, 1..8: how the stored pixels are to be turned. 1 where nothing is said."""
    reducible: bool = False
    """Whether it can be decoded at a fraction of its size."""
    deep_grey: bool = False
    """Whether it has grey values of 16 bits, as depth and heat have."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as the image is looked at."""
        # From 5 on rows are columns.
        stored = self.stored_height, self.stored_width
        return stored if self.orientation < 5 else stored[::-1]


class OtherFormatError(ImageError):
    """What is there is whole, as far as can be seen, but no JPEG, PNG or WebP."""


def read_header(raw: bytes, called: str = "") -> ImageHeader:
    """The header of a compressed image; `called` is the format that its message names.

    Raises ImageError where it is damaged, OtherFormatError naming what it is if none of those.
    """
    kind = _kind(raw, called)
    read = {"JPEG": _read_jpeg, "PNG": _read_png, "WebP": _read_webp}[kind]
    try:
        return read(raw)
    except struct.error:
        raise ImageError(f"{kind} image is truncated after {len(raw)} bytes") from None


def jpeg_segments(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, begin and end of the content of each segment up to the first scan's, that included.

    Raises ImageError or `struct.error` where there is none.
    """
    position = 2
    while True:
        mark, kind, length = struct.unpack_from(">BBH", raw, position)
        if mark != 0xFF:
            raise ImageError("JPEG image has a damaged header")
        if kind == 0xFF:  # fill byte
            position += 1
            continue
        yield kind, position + 4, position + 2 + length
        if kind == _SCAN:
            return
        position += 2 + length


def lacks_scans(raw: bytes) -> bool:
    """Whether bits of a progressive JPEG's coefficients are in none of its scans.

    To decoders that is an image that has not come in full yet, and no reason for a warning.
    """
    position = 2
    missing: dict[int, list[int]] = {}
    while (mark := _MARK.search(raw, position)) is not None:
        kind, begin = mark[1][0], mark.end() + 2
        position = max(mark.end() + int.from_bytes(raw[mark.end() : begin], "big"), begin)
        if kind == _FRAME_PROGRESSIVE:
            missing = {identifier: [1] * 64 for identifier in raw[begin + 6 : position : 3]}
        elif kind == _END or (kind == _SCAN and not missing):
            break
        elif kind == _SCAN:
            *components, first, last, bits = raw[begin + 1 : position].rjust(3)
            for identifier in missing.keys() & components[::2]:
                missing[identifier][first : last + 1] = [bits & 15] * (last + 1 - first)
    return any(any(bits) for bits in missing.values())


def is_jpeg_frame(kind: int) -> bool:
    """Whether a segment of this kind has the size of the image."""
    return 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)


def _kind(raw: bytes, called: str) -> Kind:
    for kind, start in _STARTS.items():
        if raw.startswith(start) and (kind != "WebP" or raw[8:12] == b"WEBP"):
            return kind
    for begin, start, name in _OTHERS:
        if raw.startswith(start, begin):
            also = f" (format {called[:QUOTED_CHARS]!r})" if called else ""
            raise OtherFormatError(
                f"compressed image is {name}{also}; JPEG, PNG and WebP can be read"
            )
    words = f"compressed image is neither JPEG, PNG nor WebP ({len(raw)} bytes)"
    if called and not _READABLE.search(called):
        raise OtherFormatError(f"{words}, but {called[:QUOTED_CHARS]!r}")
    raise ImageError(words)


def _read_jpeg(raw: bytes) -> ImageHeader:
    orientation = 0
    for kind, begin, end in jpeg_segments(raw):
        if kind == 0xE1 and not orientation and raw.startswith(b"Exif\0\0", begin):
            orientation = _read_exif(raw[begin + 6 : end])
        if is_jpeg_frame(kind):
            bits, height, width = struct.unpack_from(">BHH", raw, begin)
            if bits != 8:
                raise ImageError(f"JPEG image has {bits} bits per colour, only 8 can be read")
            lossless = kind in (0xC3, 0xCB)
            return ImageHeader("JPEG", height, width, orientation or 1, not lossless)
    raise ImageError("JPEG image has a damaged header")


def _read_png(raw: bytes) -> ImageHeader:
    width, height, bits, colours = struct.unpack_from(">IIBB", raw, 16)
    position, orientation = len(_STARTS["PNG"]), 1
    while position + 8 <= len(raw):
        length, kind = struct.unpack_from(">I4s", raw, position)
        if kind == b"eXIf":
            orientation = _read_exif(raw[position + 8 : position + 8 + length])
        position += length + 12
    deep_grey = (bits, colours) == (16, 0)
    return ImageHeader("PNG", height, width, orientation, deep_grey=deep_grey)


def _read_webp(raw: bytes) -> ImageHeader:
    size: tuple[int, int] | None = None
    position, orientation = 12, 1
    while position + 8 <= len(raw):
        kind, length = struct.unpack_from("<4sI", raw, position)
        begin = position + 8
        if size is None and kind == b"VP8X":
            width, height = (
                1 + int.from_bytes(raw[begin + at : begin + at + 3], "little") for at in (4, 7)
            )
            size = height, width
        elif size is None and kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", raw, begin + 6)
            size = height & 0x3FFF, width & 0x3FFF
        elif size is None and kind == b"VP8L":
            (bits,) = struct.unpack_from("<I", raw, begin + 1)
            size = 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
        elif kind == b"EXIF":
            content = raw[begin : begin + length]
            orientation = _read_exif(content.removeprefix(b"Exif\0\0"))
        position = begin + length + length % 2
    if size is None:
        raise ImageError(f"WebP image is truncated after {len(raw)} bytes")
    return ImageHeader("WebP", *size, orientation)


def _read_exif(tiff: bytes) -> int:
    """The orientation that a block of EXIF notes; 1 where it has none or makes no sense."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (entries,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, entries)
        for index in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entries + 2 + 12 * index)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1

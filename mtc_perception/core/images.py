"""From image messages to pixel arrays, without ROS and without copies where there need be none."""

import re
import struct
from array import array
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from mtc_perception.core.image_header import (
    QUOTED_CHARS,
    ImageHeader,
    is_jpeg_frame,
    jpeg_segments,
    lacks_scans,
    read_header,
)
from mtc_perception.core.input_size import InputSize
from mtc_perception.util.errors import ImageError

# A damaged header can claim any size, and the decoder would allocate it; and what a few long rows
# are scaled by takes seconds. No road camera has more.
_MOST_PIXELS = 1 << 26
_LONGEST_SIDE = 1 << 16
PixelFormat = Literal["rgb", "bgr", "rgba", "bgra", "mono"]
ByteData: TypeAlias = "bytes | bytearray | memoryview | array[int] | npt.NDArray[np.uint8]"
"""A flat sequence of bytes."""

_DIRECT: dict[str, tuple[PixelFormat, int]] = {
    "rgb8": ("rgb", 3),
    "bgr8": ("bgr", 3),
    "rgba8": ("rgba", 4),
    "bgra8": ("bgra", 4),
    "mono8": ("mono", 1),
    # What cv_bridge calls OpenCV's images if it is not told what they are.
    "8UC1": ("mono", 1),
    "8UC3": ("bgr", 3),
    "8UC4": ("bgra", 4),
}
_YUV = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first two
# rows' first two.
_BAYER = {
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
}
SUPPORTED_ENCODINGS: tuple[str, ...] = (*_DIRECT, *_YUV, *_BAYER)
# What image_transport says it has packed: a Bayer pattern, and not to which colours it was changed.
_PACKED_BAYER = re.compile(r"\s*(bayer_\w+)\s*;.*\bcompressed\s*", re.DOTALL)

_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_REDUCTIONS = (8, 4, 2)
_SURPLUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd[0-79]")
_MOST_SURPLUS_BYTES = 16


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image as it came, before any conversion."""

    pixels: npt.NDArray[np.uint8]
    """[H, W, 3], [H, W, 4] or, for `mono`, [H, W]. Often a read-only view of a message's data
    with padded rows."""
    format: PixelFormat
    full_size: tuple[int, int] | None = None
    """Height and width of the image where `pixels` are fewer than it has; else None."""

    @property
    def height(self) -> int:
        """Of the whole image."""
        return int(self.pixels.shape[0]) if self.full_size is None else self.full_size[0]

    @property
    def width(self) -> int:
        """Of the whole image."""
        return int(self.pixels.shape[1]) if self.full_size is None else self.full_size[1]


def view_image(encoding: str, height: int, width: int, step: int, data: ByteData) -> SourceImage:
    """The pixels of a `sensor_msgs/Image` with these fields; `step` is bytes per row.

    No copy for the rgb, bgr and mono encodings: the result lives as long as `data` does not
    change. YUV and Bayer are converted to RGB. Raises ImageError naming what is wrong.
    """
    if encoding not in SUPPORTED_ENCODINGS:
        raise ImageError(
            f"unknown encoding {encoding[:QUOTED_CHARS]!r}; supported are"
            f" {', '.join(SUPPORTED_ENCODINGS)}"
        )
    if height <= 0 or width <= 0:
        raise ImageError(f"image is empty: {width} x {height}")
    _check_size(encoding, height, width)
    if encoding in _DIRECT:
        pixel_format, channels = _DIRECT[encoding]
        pixels = _view(height, width, channels, step, data)
        return SourceImage(pixels[..., 0] if channels == 1 else pixels, pixel_format)
    if encoding in _YUV:
        if width % 2:
            raise ImageError(f"{encoding} needs an even width, got {width}")
        pixels = _view(height, width, 2, step, data)
        return SourceImage(_converted(pixels, _YUV[encoding]), "rgb")
    return _from_bayer(encoding, _view(height, width, 1, step, data))


def decode_compressed(
    data: ByteData, fit: InputSize | None = None, called: str = ""
) -> SourceImage:
    """The pixels of a JPEG, PNG or WebP file: RGB of a JPEG, else BGR.

    They are turned as the file's EXIF says, so that they are what people see who look at the file.
    `fit` is what the image is going to be scaled into: a JPEG of at least twice as many pixels in
    both directions as that needs is decoded at half, a quarter or an eighth of its size, never to
    less than is needed. `called` is what a message calls its format, to be named where that is none
    of these; where it says that a Bayer pattern was packed as it is, that is converted to RGB.

    Raises ImageError for every other kind, and where something is missing or damaged as far as that
    can be seen: in a JPEG lost data nearly always, in a PNG any change, in a WebP only its end.
    """
    raw = bytes(data)
    header = _sound_header(raw, called)
    end = _ENDS.get(header.kind)
    # Cameras may pad behind the end mark, so it is looked for rather than expected last.
    if end is not None and raw.rfind(end) < 0:
        raise ImageError(f"{header.kind} image is truncated after {len(raw)} bytes")
    packed = _PACKED_BAYER.fullmatch(called)
    bayer = packed[1] if packed and packed[1] in _BAYER else ""
    reduction = _reduction(header, None if bayer else fit)
    size = -(-header.stored_height // reduction), -(-header.stored_width // reduction)
    if header.kind == "JPEG":
        pixels = _decode_jpeg(raw, None if reduction == 1 else size)
        if lacks_scans(raw):
            raise ImageError("JPEG image cannot be decoded: scans of it are missing")
    else:
        pixels = _decode_other(raw, header.kind)
    if pixels.shape[:2] != size:
        raise ImageError(f"{header.kind} image is not of the size that its header says")
    if bayer and (pixels[..., :1] == pixels[..., 1:]).all():  # or somebody has made colours of it
        return _from_bayer(bayer, np.ascontiguousarray(pixels[..., 0]))
    return SourceImage(
        _turned(pixels, header.orientation),
        "rgb" if header.kind == "JPEG" else "bgr",
        None if reduction == 1 else header.size,
    )


def compressed_size(raw: bytes) -> tuple[int, int]:
    """Height and width of a JPEG, PNG or WebP file, turned as EXIF says. Raises ImageError."""
    return _sound_header(raw).size


def _sound_header(raw: bytes, called: str = "") -> ImageHeader:
    header = read_header(raw, called)
    _check_size(header.kind, header.stored_height, header.stored_width)
    return header


def _check_size(kind: str, height: int, width: int) -> None:
    if not 0 < height * width <= _MOST_PIXELS or max(height, width) > _LONGEST_SIDE:
        raise ImageError(f"{kind} image claims to have {width} x {height} pixels")


def _reduction(header: ImageHeader, fit: InputSize | None) -> int:
    if fit is None or not header.reducible:
        return 1
    height, width = header.size
    factors = height / fit.height, width / fit.width
    # In a letterbox the side that is scaled most decides: the other one does not fill its side.
    factor = max(factors) if fit.fit == "letterbox" else min(factors)
    return next((reduction for reduction in _REDUCTIONS if factor >= reduction), 1)


def _decode_jpeg(raw: bytes, reduced: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    """RGB, in full or in the size `reduced`, which a reduction makes of the header's."""
    height, width = reduced or (0, 0)

    def decoded(strict: bool) -> npt.NDArray[np.uint8]:
        return simplejpeg.decode_jpeg(raw, "RGB", min_height=height, min_width=width, strict=strict)

    try:
        try:
            return decoded(strict=True)
        except ValueError as error:
            surplus = _SURPLUS.match(str(error))
            if surplus is None or not _only_surplus(raw, int(surplus[1])):
                raise
            return decoded(strict=False)
    except ValueError as error:
        problem = str(error).removeprefix("Corrupt JPEG data: ")
        raise ImageError(f"JPEG image cannot be decoded: {problem}") from error


def _only_surplus(raw: bytes, count: int) -> bool:
    """Whether bytes in front of a restart or end mark are all that is odd about a JPEG.

    Several webcams (Logitech's C270 for one) write a few bytes more than the image has. That is no
    damage as long as no restart mark is missing. Where the first oddity is something else, that is
    what libjpeg says.
    """
    if count > _MOST_SURPLUS_BYTES:
        return False
    interval = blocks = 0
    for kind, begin, _ in jpeg_segments(raw):
        if kind == 0xDD:
            (interval,) = struct.unpack_from(">H", raw, begin)
        elif is_jpeg_frame(kind):
            height, width, components = struct.unpack_from(">HHB", raw, begin + 1)
            # Of a single component blocks are not interleaved, whatever its sampling.
            sampling = (
                raw[begin + 7 : begin + 6 + 3 * components : 3] if components > 1 else b"\x11"
            )
            across = 8 * max(value >> 4 for value in sampling)
            down = 8 * max(value & 15 for value in sampling)
            blocks = -(-width // across) * -(-height // down)
        scan = begin
    marks = re.findall(rb"\xff([\xd0-\xd7])", raw[scan : raw.rfind(_ENDS["JPEG"])])
    expected = (blocks - 1) // interval if interval else 0
    return [mark[0] & 7 for mark in marks] == [index & 7 for index in range(expected)]


def _decode_other(raw: bytes, kind: str) -> npt.NDArray[np.uint8]:
    """BGR."""
    try:
        content = np.frombuffer(raw, np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f"{kind} image cannot be decoded: {error.err}") from error
    if pixels is None:
        raise ImageError(f"{kind} image cannot be decoded")
    return pixels.astype(np.uint8, copy=False)


def _turned(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Stored pixels as an orientation of EXIF wants them to be seen."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _view(
    height: int, width: int, channels: int, step: int, data: ByteData
) -> npt.NDArray[np.uint8]:
    if step < width * channels:
        raise ImageError(f"step is {step} bytes, {width} pixels need {width * channels}")
    if len(data) != step * height:
        raise ImageError(
            f"image has {len(data)} bytes, {height} rows of step {step} are {step * height}"
        )
    pixels: npt.NDArray[np.uint8] = np.ndarray(
        (height, width, channels), np.uint8, buffer=data, strides=(step, channels, 1)
    )
    pixels.flags.writeable = False
    return pixels


def _from_bayer(encoding: str, pixels: npt.NDArray[np.uint8]) -> SourceImage:
    height, width = pixels.shape[:2]
    if height < 2 or width < 2:
        raise ImageError(f"{encoding} needs at least 2 x 2 pixels, got {width} x {height}")
    return SourceImage(_converted(pixels, _BAYER[encoding]), "rgb")


def _converted(pixels: npt.NDArray[np.uint8], code: int) -> npt.NDArray[np.uint8]:
    return cv2.cvtColor(pixels, code).astype(np.uint8, copy=False)

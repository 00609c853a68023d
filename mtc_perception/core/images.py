"""From image messages to pixel arrays, without ROS and without copies where there need be none."""

import struct
from array import array
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.util.errors import ImageError

PixelFormat = Literal["rgb", "bgr", "rgba", "bgra", "mono"]
ByteData: TypeAlias = "bytes | bytearray | memoryview | array[int] | npt.NDArray[np.uint8]"
"""A flat sequence of bytes."""

_DIRECT: dict[str, tuple[PixelFormat, int]] = {
    "rgb8": ("rgb", 3),
    "bgr8": ("bgr", 3),
    "rgba8": ("rgba", 4),
    "bgra8": ("bgra", 4),
    "mono8": ("mono", 1),
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

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
# A damaged header can claim any size, and the decoder would allocate it. No road camera has more.
_MOST_PIXELS = 1 << 26


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image as it came, before any conversion."""

    pixels: npt.NDArray[np.uint8]
    """[H, W, 3], [H, W, 4] or, for `mono`, [H, W]. Often a read-only view of a message's data
    with padded rows."""
    format: PixelFormat

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


def view_image(encoding: str, height: int, width: int, step: int, data: ByteData) -> SourceImage:
    """The pixels of a `sensor_msgs/Image` with these fields; `step` is bytes per row.

    No copy for the rgb, bgr and mono encodings: the result lives as long as `data` does not
    change. YUV and Bayer are converted to RGB. Raises ImageError naming what is wrong.
    """
    if encoding not in SUPPORTED_ENCODINGS:
        raise ImageError(
            f"unknown encoding {encoding!r}; supported are {', '.join(SUPPORTED_ENCODINGS)}"
        )
    if height <= 0 or width <= 0:
        raise ImageError(f"image is empty: {width} x {height}")
    if encoding in _DIRECT:
        pixel_format, channels = _DIRECT[encoding]
        pixels = _view(height, width, channels, step, data)
        return SourceImage(pixels[..., 0] if channels == 1 else pixels, pixel_format)
    if encoding in _YUV:
        if width % 2:
            raise ImageError(f"{encoding} needs an even width, got {width}")
        pixels, code = _view(height, width, 2, step, data), _YUV[encoding]
    else:
        pixels, code = _view(height, width, 1, step, data), _BAYER[encoding]
        if height < 2 or width < 2:
            raise ImageError(f"{encoding} needs at least 2 x 2 pixels, got {width} x {height}")
    return SourceImage(_converted(pixels, code), "rgb")


def decode_compressed(data: ByteData) -> SourceImage:
    """The pixels of a JPEG or PNG file, as BGR. Raises ImageError, also for truncated files.

    A rotation noted in EXIF is ignored: pixel coordinates are those of the stored image.
    """
    raw = bytes(data)
    kind = _kind(raw)
    end = _JPEG_END if kind == "JPEG" else _PNG_END
    # The decoder fills what is missing with grey and only warns on stderr. Cameras may pad
    # behind the end mark, so it is looked for rather than expected last.
    if raw.rfind(end) < 0:
        raise ImageError(f"{kind} image is truncated after {len(raw)} bytes")
    compressed_size(raw)
    try:
        content = np.frombuffer(raw, np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f"{kind} image cannot be decoded: {error.err}") from error
    if pixels is None:
        raise ImageError(f"{kind} image cannot be decoded")
    return SourceImage(pixels.astype(np.uint8, copy=False), "bgr")


def compressed_size(raw: bytes) -> tuple[int, int]:
    """Height and width of a JPEG or PNG file as its header says. Raises ImageError."""
    kind = _kind(raw)
    height, width = _jpeg_size(raw) if kind == "JPEG" else _png_size(raw)
    if not 0 < height * width <= _MOST_PIXELS:
        raise ImageError(f"{kind} image claims to have {width} x {height} pixels")
    return height, width


def _kind(raw: bytes) -> str:
    if raw.startswith(_JPEG_START):
        return "JPEG"
    if raw.startswith(_PNG_START):
        return "PNG"
    raise ImageError(f"compressed image is neither JPEG nor PNG ({len(raw)} bytes)")


def _png_size(raw: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", raw.ljust(24, b"\0"), 16)
    return height, width


def _jpeg_size(raw: bytes) -> tuple[int, int]:
    """Height and width as the frame header says, 0 if there is none."""
    position = 2
    while position + 9 <= len(raw):
        mark, kind, length = struct.unpack_from(">BBH", raw, position)
        if mark != 0xFF:
            break
        if kind == 0xFF:  # fill byte
            position += 1
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", raw, position + 5)
            return height, width
        else:
            position += 2 + length
    return 0, 0


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


def _converted(pixels: npt.NDArray[np.uint8], code: int) -> npt.NDArray[np.uint8]:
    return cv2.cvtColor(pixels, code).astype(np.uint8, copy=False)

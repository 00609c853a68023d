import struct
from array import array
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtc_perception.core.images import (
    SUPPORTED_ENCODINGS,
    ByteData,
    SourceImage,
    decode_compressed,
    view_image,
)
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.util.errors import ImageError

DIRECT = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


def rows(height: int, step: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, step), dtype=np.uint8)


@pytest.mark.parametrize("encoding", DIRECT)
@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    "container", [bytes, bytearray, memoryview, lambda data: array("B", data), np.frombuffer]
)
def test_direct_encodings_are_viewed(
    encoding: str, padding: int, container: Callable[[bytes], ByteData]
) -> None:
    height, width, channels = 7, 9, DIRECT[encoding]
    raw = rows(height, width * channels + padding)
    if container is np.frombuffer:
        data: ByteData = np.frombuffer(raw.tobytes(), np.uint8)
    else:
        data = container(raw.tobytes())
    image = view_image(encoding, height, width, width * channels + padding, data)
    expected = raw[:, : width * channels].reshape(height, width, channels)
    np.testing.assert_array_equal(image.pixels, expected if channels > 1 else expected[..., 0])
    assert image.format == encoding.removesuffix("8")
    assert (image.height, image.width) == (height, width)
    assert np.shares_memory(image.pixels, np.frombuffer(data, np.uint8))
    assert not image.pixels.flags.writeable


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv_pairs(encoding: str) -> None:
    # BT.601, studio range: red, green, blue; two pixels share U and V.
    colors = {(255, 0, 0): (81, 90, 240), (0, 255, 0): (145, 54, 34), (0, 0, 255): (41, 240, 110)}
    pairs = []
    for y, u, v in colors.values():
        pairs.append([u, y, v, y] if encoding in ("yuv422", "uyvy") else [y, u, y, v])
    row = np.array(pairs, np.uint8).reshape(-1)
    raw = np.stack([np.append(row, np.array([7, 7, 7], np.uint8))] * 2)  # padded rows
    image = view_image(encoding, 2, 6, raw.shape[1], raw.tobytes())
    assert image.format == "rgb"
    expected = np.repeat(np.array(list(colors), int), 2, axis=0)
    assert np.abs(image.pixels.astype(int) - expected).max() <= 3


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns(pattern: str) -> None:
    color = {"r": 200, "g": 120, "b": 40}
    cell = np.array([color[letter] for letter in pattern], np.uint8).reshape(2, 2)
    mosaic = np.tile(cell, (4, 5))
    image = view_image(f"bayer_{pattern}8", 8, 10, 10, mosaic.tobytes())
    assert image.format == "rgb"
    np.testing.assert_array_equal(image.pixels, np.broadcast_to([200, 120, 40], (8, 10, 3)))


@pytest.mark.parametrize("encoding", SUPPORTED_ENCODINGS)
@pytest.mark.parametrize(("height", "width"), [(0, 4), (4, 0), (0, 0)])
def test_empty_images(encoding: str, height: int, width: int) -> None:
    with pytest.raises(ImageError, match=f"empty: {width} x {height}"):
        view_image(encoding, height, width, width * 4, b"")


@pytest.mark.parametrize("encoding", SUPPORTED_ENCODINGS)
def test_step_and_size_must_fit(encoding: str) -> None:
    pixel_bytes = DIRECT.get(encoding, 1 if encoding.startswith("bayer") else 2)
    height, width = 6, 8
    step = width * pixel_bytes + 2
    view_image(encoding, height, width, step, bytes(step * height))
    for size in (0, step * height - 1, step * height + 1):
        with pytest.raises(ImageError, match=f"image has {size} bytes"):
            view_image(encoding, height, width, step, bytes(size))
    for short in (0, -step, width * pixel_bytes - 1):
        with pytest.raises(ImageError, match=f"step is {short} bytes"):
            view_image(encoding, height, width, short, bytes(step * height))


@pytest.mark.parametrize("encoding", ["", "RGB8", "16UC1", "mono16", "h264", "bayer_rggb16"])
def test_unknown_encoding_names_the_known_ones(encoding: str) -> None:
    with pytest.raises(ImageError) as caught:
        view_image(encoding, 2, 2, 12, bytes(24))
    assert repr(encoding) in str(caught.value)
    assert all(known in str(caught.value) for known in SUPPORTED_ENCODINGS)


def test_sizes_a_conversion_cannot_take() -> None:
    with pytest.raises(ImageError, match="even width"):
        view_image("yuyv", 2, 3, 6, bytes(12))
    with pytest.raises(ImageError, match="at least 2 x 2"):
        view_image("bayer_rggb8", 1, 4, 4, bytes(4))


def encoded(suffix: str, pixels: npt.NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return bytes(data.tobytes())


def test_png_is_exact() -> None:
    pixels = self_test_frame(48, 64)
    image = decode_compressed(array("B", encoded(".png", pixels)))
    assert image.format == "bgr"
    np.testing.assert_array_equal(image.pixels, pixels)


def test_jpeg_is_close_whether_grey_or_padded() -> None:
    smooth = cv2.GaussianBlur(self_test_frame(48, 64), (9, 9), 3)
    data = encoded(".jpg", smooth)
    for padded in (data, data + bytes(1000)):
        pixels = decode_compressed(padded).pixels
        assert np.abs(pixels.astype(int) - smooth).max() < 25
    grey = decode_compressed(encoded(".jpg", smooth[..., 0]))
    assert grey.format == "bgr"
    assert grey.pixels.shape == (48, 64, 3)


def test_a_rotation_in_exif_is_ignored() -> None:
    data = encoded(".jpg", self_test_frame(48, 64))
    # One entry: orientation (0x112), one short, 6 (turn by 90 degrees).
    tiff = b"MM\0\x2a" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + tiff
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    upright = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)
    assert upright is not None
    assert upright.shape == (64, 48, 3)
    np.testing.assert_array_equal(decode_compressed(turned).pixels, decode_compressed(data).pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_files(suffix: str) -> None:
    data = encoded(suffix, self_test_frame(48, 64))
    for kept in range(0, len(data) - 4, 97):
        with pytest.raises(ImageError):
            decode_compressed(data[:kept])
    with pytest.raises(ImageError, match="truncated"):
        decode_compressed(data[:-200])


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8", b"\xff\xd8\xff\xd9", bytes(4000)])
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode_compressed(data)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_claimed_size_is_not_believed(suffix: str) -> None:
    data = encoded(suffix, np.zeros((77, 55, 3), np.uint8))
    layout, size = (">HH", (77, 55)) if suffix == ".jpg" else (">II", (55, 77))
    old, new = struct.pack(layout, *size), struct.pack(layout, 65535, 65535)
    assert data.count(old) == 1
    with pytest.raises(ImageError, match="claims to have 65535 x 65535 pixels"):
        decode_compressed(data.replace(old, new))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), suffix=st.sampled_from([".jpg", ".png"]))
def test_damage_never_raises_anything_else(data: st.DataObject, suffix: str) -> None:
    content = bytearray(encoded(suffix, self_test_frame(24, 32)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode_compressed(bytes(content))
    except ImageError:
        return
    assert isinstance(image, SourceImage)
    assert image.pixels.ndim == 3

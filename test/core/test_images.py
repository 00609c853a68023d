import itertools
import re
import struct
import zlib
from array import array
from collections.abc import Callable, Sequence
from typing import get_args

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from mtc_perception.core.images import (
    SUPPORTED_ENCODINGS,
    ByteData,
    SourceImage,
    compressed_size,
    decode_compressed,
    view_image,
)
from mtc_perception.core.input_size import Fit, InputSize
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.util.errors import ImageError

DIRECT = {
    "rgb8": 3,
    "bgr8": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "8UC1": 1,
    "8UC3": 3,
    "8UC4": 4,
}
AS_CV_BRIDGE_MEANS = {"8UC1": "mono", "8UC3": "bgr", "8UC4": "bgra"}


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
    assert image.format == AS_CV_BRIDGE_MEANS.get(encoding, encoding.removesuffix("8"))
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


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_bayer_pattern_that_was_packed_as_it_is_becomes_colours(suffix: str) -> None:
    mosaic = np.tile(np.array([[200, 120], [120, 40]], np.uint8), (32, 64))
    data = cv2.imencode(suffix, mosaic, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    kind = {".jpg": "jpeg", ".png": "png"}[suffix]
    image = decode_compressed(data, InputSize(16, 32), f"bayer_rggb8; {kind} compressed ")
    assert image.format == "rgb"
    assert np.abs(image.pixels.astype(int) - [200, 120, 40]).max() <= 3
    colours = cv2.imencode(suffix, np.full((8, 8, 3), (10, 20, 30), np.uint8))[1].tobytes()
    for called in ("bayer_rggb8; jpeg compressed bgr8", "bayer_rggb8; jpeg compressed "):
        image = decode_compressed(colours, None, called)
        assert image.pixels[0, 0].max() - image.pixels[0, 0].min() > 10


@pytest.mark.parametrize("encoding", SUPPORTED_ENCODINGS)
@pytest.mark.parametrize(("height", "width"), [(0, 4), (4, 0), (0, 0)])
def test_empty_images(encoding: str, height: int, width: int) -> None:
    with pytest.raises(ImageError, match=f"empty: {width} x {height}"):
        view_image(encoding, height, width, width * 4, b"")


@pytest.mark.parametrize("encoding", SUPPORTED_ENCODINGS)
@pytest.mark.parametrize(
    ("height", "width"), [(1, 60_000_000), (65_538, 2), (2, 65_538), (8192, 8194), (2**31, 2**31)]
)
def test_raw_images_of_sizes_that_no_camera_has(encoding: str, height: int, width: int) -> None:
    with pytest.raises(ImageError, match=f"{encoding} image claims to have {width} x {height} "):
        view_image(encoding, height, width, width * 4, b"")


@pytest.mark.parametrize(("height", "width"), [(1, 65_536), (65_536, 1024), (8192, 8192)])
def test_the_largest_raw_images_are_viewed(height: int, width: int) -> None:
    image = view_image("mono8", height, width, width, bytes(height * width))
    assert (image.height, image.width) == (height, width)


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


def encoded(
    suffix: str, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], options: Sequence[int] = ()
) -> bytes:
    done, data = cv2.imencode(suffix, pixels, options)
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
        image = decode_compressed(padded)
        assert image.format == "rgb"
        assert np.abs(image.pixels[..., ::-1].astype(int) - smooth).max() < 25
    grey = decode_compressed(encoded(".jpg", smooth[..., 0]))
    assert grey.format == "rgb"
    np.testing.assert_array_equal(grey.pixels[..., 0], grey.pixels[..., 2])
    assert np.abs(grey.pixels[..., 0].astype(int) - smooth[..., 0]).max() < 25


def rgb_of(image: SourceImage) -> npt.NDArray[np.uint8]:
    return image.pixels if image.format == "rgb" else image.pixels[..., ::-1]


def by_opencv(data: bytes) -> npt.NDArray[np.uint8]:
    """As OpenCV decodes it, as viewers show it: RGB."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels[..., ::-1].astype(np.uint8)


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("restart", [0, 3])
@pytest.mark.parametrize("sampling", ["411", "420", "422", "440", "444"])
@pytest.mark.parametrize("size", [(48, 64), (47, 61), (2, 2), (1, 1)])
def test_sound_jpegs_have_the_very_pixels_of_opencv(
    size: tuple[int, int], sampling: str, restart: int, progressive: int
) -> None:
    options = [
        *(
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}"),
        ),
        *(cv2.IMWRITE_JPEG_RST_INTERVAL, restart),
        *(cv2.IMWRITE_JPEG_PROGRESSIVE, progressive),
    ]
    data = encoded(".jpg", self_test_frame(*size), options)
    np.testing.assert_array_equal(decode_compressed(data).pixels, by_opencv(data))


def tagged(kind: str, data: bytes, exif: bytes) -> bytes:
    """An image file with a block of EXIF."""
    if kind == ".jpg":
        content = b"Exif\0\0" + exif
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]
    if kind == ".png":
        checked = b"eXIf" + exif
        chunk = struct.pack(">I", len(exif)) + checked + struct.pack(">I", zlib.crc32(checked))
        return data[:33] + chunk + data[33:]
    height, width = compressed_size(data)
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([8, 0, 0, 0]) + canvas
    chunks = extended + data[12:] + b"EXIF" + struct.pack("<I", len(exif)) + exif
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def orientation(value: int, order: str = ">") -> bytes:
    """EXIF of one entry: orientation (0x112), one short."""
    mark = b"MM" if order == ">" else b"II"
    return mark + struct.pack(f"{order}HIHHHIHHI", 42, 8, 1, 0x112, 3, 1, value, 0, 0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(10))
@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp"])
def test_images_are_turned_as_viewers_turn_them(kind: str, value: int, order: str) -> None:
    plain = encoded(kind, self_test_frame(46, 64))
    data = tagged(kind, plain, orientation(value, order))
    stored = rgb_of(decode_compressed(plain))
    # Rows of the stored image become columns, and in which order: table of the EXIF standard.
    seen = {
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }.get(value, stored)
    image = decode_compressed(data)
    np.testing.assert_array_equal(rgb_of(image), seen)
    assert compressed_size(data) == (image.height, image.width) == seen.shape[:2]
    if kind == ".jpg":
        np.testing.assert_array_equal(rgb_of(image), by_opencv(data))


@settings(max_examples=300, deadline=None)
@given(exif=st.binary(max_size=60), mark=st.sampled_from([b"", b"II*\0", b"MM\0*"]))
def test_no_exif_stops_an_image(exif: bytes, mark: bytes) -> None:
    plain = encoded(".jpg", self_test_frame(24, 32))
    image = decode_compressed(tagged(".jpg", plain, mark + exif))
    assert {image.height, image.width} == {24, 32}


@pytest.mark.parametrize("sides", [(360, 640), (359, 639), (180, 640), (540, 960), (48, 320)])
@pytest.mark.parametrize("turned", [1, 6])
def test_a_jpeg_is_decoded_at_a_fraction_that_is_enough(
    sides: tuple[int, int], turned: int
) -> None:
    height, width = sides
    frame = cv2.GaussianBlur(self_test_frame(height, width), (0, 0), 2)
    data = tagged(".jpg", encoded(".jpg", frame), orientation(turned))
    whole = decode_compressed(data)
    sizes = ((192, 320), (320, 192), (48, 80), (1000, 1000), (1, 1))
    for fit in (InputSize(*size, how) for size in sizes for how in get_args(Fit)):
        image = decode_compressed(data, fit)
        assert (image.height, image.width) == (whole.height, whole.width) == compressed_size(data)
        box = Letterbox.fit(whole.height, whole.width, *fit)
        got_height, got_width = image.pixels.shape[:2]
        reduction = round(whole.width / got_width)
        assert (got_height, got_width) == (
            -(-whole.height // reduction),
            -(-whole.width // reduction),
        )
        assert reduction == 1 or (got_height >= box.height and got_width >= box.width)
        # And no more than twice of it, or the smallest fraction there is.
        assert reduction == 8 or got_width <= 2 * box.width or got_height <= 2 * box.height
        assert (image.full_size is None) == (reduction == 1)
        # The network sees the same, but for how pixels are averaged.
        seen, expected = (np.zeros((*fit[:2], 3), np.uint8) for _ in range(2))
        box.write(image, seen)
        box.write(whole, expected)
        assert np.abs(seen.astype(int) - expected).mean() < 2


def test_only_jpegs_are_reduced() -> None:
    for kind in (".png", ".webp"):
        image = decode_compressed(encoded(kind, self_test_frame(64, 64)), InputSize(8, 8))
        assert image.pixels.shape == (64, 64, 3)
        assert image.full_size is None


def test_a_webp_is_read_whatever_its_file_is_called() -> None:
    frame = self_test_frame(48, 65)
    lossless = encoded(".webp", frame, [cv2.IMWRITE_WEBP_QUALITY, 101])
    np.testing.assert_array_equal(decode_compressed(lossless).pixels, frame)
    for data in (lossless, encoded(".webp", frame, [cv2.IMWRITE_WEBP_QUALITY, 90])):
        assert compressed_size(data) == (48, 65)
        np.testing.assert_array_equal(rgb_of(decode_compressed(data)), by_opencv(data))
        for kept in (0, 11, 20, 40, len(data) // 2, len(data) - 4):
            with pytest.raises(ImageError):
                decode_compressed(data[:kept])


def test_sixteen_bits_of_a_png_are_read_as_their_upper_eight() -> None:
    frame = self_test_frame(20, 30)
    deep = frame.astype(np.uint16) << 8
    np.testing.assert_array_equal(decode_compressed(encoded(".png", deep)).pixels, frame)


def scan_of(data: bytes | bytearray) -> int:
    """Where the (first) scan's data begins in a JPEG."""
    mark = data.index(b"\xff\xda")
    return mark + 2 + int.from_bytes(data[mark + 2 : mark + 4], "big")


@pytest.mark.parametrize("fit", [None, InputSize(96, 160)])
@pytest.mark.parametrize("restart", [0, 4, 40])
@pytest.mark.parametrize("quality", [60, 95])
def test_lost_data_of_a_jpeg_is_seen(quality: int, restart: int, fit: InputSize | None) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    data = encoded(".jpg", self_test_frame(240, 320), options)
    decode_compressed(data, fit)
    begin, end = scan_of(data), len(data) - 2
    rng = np.random.default_rng(0)
    for _ in range(60):
        # USB packets that did not arrive, then the half with an end mark all the same.
        lost = 512 * int(rng.integers(1, 6))
        at = int(rng.integers(begin, end - lost))
        for damaged in (data[:at] + data[at + lost :], data[:at] + data[end:], data[:-2]):
            with pytest.raises(ImageError, match="JPEG image"):
                decode_compressed(damaged, fit)


@pytest.mark.parametrize("grey", [False, True])
def test_a_progressive_jpeg_without_one_of_its_scans_is_seen(grey: bool) -> None:
    frame = self_test_frame(96, 160)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    data = encoded(".jpg", frame[..., 0] if grey else frame, options)
    filled = data.replace(b"\xff\xda", b"\xff\xff\xff\xda")  # fill bytes mean nothing
    np.testing.assert_array_equal(decode_compressed(filled).pixels, by_opencv(data))
    # Each scan with the tables in front of it, which may be other scans' as well.
    starts = [match.start() for match in re.finditer(rb"\xff\xda", data)] + [len(data) - 2]
    assert len(starts) > (5 if grey else 9)
    for begin, end in itertools.pairwise(starts):
        tables = data.find(b"\xff\xc4", begin, end)
        lost = data[:begin] + data[end if tables < 0 else tables :]
        with pytest.raises(ImageError, match=r"scans of it are missing|JPEG image cannot"):
            decode_compressed(lost)


def test_what_libjpeg_says_of_damage_is_told() -> None:
    data = encoded(".jpg", self_test_frame(240, 320))
    half = data[: len(data) // 2] + data[-2:]
    with pytest.raises(
        ImageError, match=r"^JPEG image cannot be decoded: premature end of data segment$"
    ):
        decode_compressed(half)


@pytest.mark.parametrize("restart", [0, 4])
def test_webcams_that_write_a_few_bytes_too_many_are_read(restart: int) -> None:
    options = [cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    data = encoded(".jpg", self_test_frame(120, 160), options)
    marks = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7\xd9]", data)]
    marks = [mark for mark in marks if mark >= scan_of(data)]
    assert len(marks) == (20 if restart else 1)  # 80 blocks of 16 x 16
    wanted = decode_compressed(data).pixels
    for mark in marks:
        surplus = data[:mark] + bytes(9) + data[mark:]
        np.testing.assert_array_equal(decode_compressed(surplus).pixels, wanted)
        assert decode_compressed(surplus, InputSize(60, 80)).pixels.shape == (60, 80, 3)
        with pytest.raises(ImageError, match="extraneous bytes"):
            decode_compressed(data[:mark] + bytes(900) + data[mark:])
    if restart:
        # A surplus does not hide that eight intervals are missing, of which the marks' numbers
        # alone say nothing.
        lost = data[: marks[0]] + bytes(9) + data[marks[0] : marks[3]] + data[marks[11] :]
        with pytest.raises(ImageError):
            decode_compressed(lost)


@pytest.mark.parametrize("sampling", [0x11, 0x22])
def test_a_few_bytes_too_many_in_a_grey_image(sampling: int) -> None:
    data = bytearray(
        encoded(".jpg", self_test_frame(48, 64)[..., 0], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4])
    )
    data[data.index(b"\xff\xc0") + 11] = sampling
    mark = data.index(b"\xff\xd0", scan_of(data))
    surplus = data[:mark] + bytes(9) + data[mark:]
    wanted = decode_compressed(data).pixels
    np.testing.assert_array_equal(decode_compressed(surplus).pixels, wanted)


def test_a_cmyk_jpeg_is_read_as_viewers_show_it() -> None:
    patches = np.random.default_rng(0).integers(0, 256, (2, 3, 4), dtype=np.uint8)
    data = simplejpeg.encode_jpeg(np.kron(patches, np.ones((8, 8, 1), np.uint8)), 90, "CMYK")
    image = decode_compressed(data)
    assert image.pixels.shape == (16, 24, 3)
    np.testing.assert_array_equal(image.pixels, by_opencv(data))
    assert decode_compressed(data, InputSize(8, 12)).pixels.shape == (8, 12, 3)


def test_twelve_bits_per_colour_are_refused_by_name() -> None:
    data = encoded(".jpg", self_test_frame(24, 32))
    frame = data.index(b"\xff\xc0")
    deep = data[:frame] + b"\xff\xc1" + data[frame + 2 : frame + 4] + b"\x0c" + data[frame + 5 :]
    with pytest.raises(ImageError, match="12 bits per colour"):
        decode_compressed(deep)


@pytest.mark.parametrize(
    ("begin", "name"),
    [
        (b"GIF89a", "GIF"),
        (b"BM", "BMP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"\0\0\0\x20ftypheic", "HEIF"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\1\x67", "H.264 or H.265 video"),
        (b"\0\0\1\x67", "H.264 or H.265 video"),
        (bytes(12) + b"\x89PNG\r\n\x1a\n", "a depth image"),
        (b"RIFF\0\0\0\0AVI ", "neither JPEG, PNG nor WebP"),
    ],
)
def test_other_kinds_are_refused_by_name(begin: bytes, name: str) -> None:
    for data in (begin, begin + bytes(100)):
        with pytest.raises(ImageError) as caught:
            decode_compressed(data)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"\0\0\0\1\x67", b"neither"])
def test_a_format_without_end_is_told_cut_short(data: bytes) -> None:
    with pytest.raises(ImageError, match="'x264") as caught:
        decode_compressed(data, called="x264\x1b\n" * 300_000)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_whatever_is_wrong_with_an_image_is_told_in_one_short_line() -> None:
    told = str(ImageError("of a decoder:\n\x1b[2J" + "x" * 10_000_000))
    assert told.startswith("of a decoder: \\x1b[2Jxxx")
    assert told.isprintable()
    assert len(told) < 3000


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


def test_a_file_is_of_no_longer_side_than_a_raw_image() -> None:
    with pytest.raises(ImageError, match="PNG image claims to have 65537 x 1 pixels"):
        decode_compressed(encoded(".png", np.zeros((1, 65_537, 3), np.uint8)))


@settings(max_examples=400, deadline=None)
@given(
    data=st.data(),
    suffix=st.sampled_from([".jpg", ".png", ".webp"]),
    progressive=st.booleans(),
    fit=st.sampled_from([None, InputSize(12, 16), InputSize(5, 5, "stretch")]),
)
def test_damage_never_raises_anything_else(
    data: st.DataObject, suffix: str, progressive: bool, fit: InputSize | None
) -> None:
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)] if suffix == ".jpg" else []
    content = bytearray(encoded(suffix, self_test_frame(24, 32), options))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert"])):
            case "change":
                content[at] = data.draw(st.integers(0, 255))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                content[at:at] = data.draw(st.binary(max_size=20))
        if not content:
            break
    try:
        image = decode_compressed(bytes(content), fit)
    except ImageError:
        return
    assert isinstance(image, SourceImage)
    assert image.pixels.ndim == 3
    assert compressed_size(bytes(content)) == (image.height, image.width)

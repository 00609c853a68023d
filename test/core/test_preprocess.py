import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtc_perception.core.images import PixelFormat, SourceImage
from mtc_perception.core.letterbox import PAD_VALUE, Letterbox

SOURCE_SIZES = [(720, 1280), (1080, 1920), (375, 1242), (1279, 717), (100, 200), (384, 640), (1, 1)]

source_lengths = st.integers(1, 2500)
network_lengths = st.integers(32, 700)
lengths = (source_lengths, source_lengths, network_lengths, network_lengths)
letterboxes = st.builds(Letterbox.fit, *lengths)
stretched = st.builds(Letterbox.fit, *lengths, st.just("stretch"))


def noise(height: int, width: int, channels: int = 3) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@given(letterboxes)
def test_fit_is_the_largest_centred_box_of_the_sources_shape(box: Letterbox) -> None:
    assert box.height == box.dst_height or box.width == box.dst_width
    below, right = box.dst_height - box.top - box.height, box.dst_width - box.left - box.width
    assert 0 <= below - box.top <= 1
    assert 0 <= right - box.left <= 1
    scale = min(box.dst_height / box.src_height, box.dst_width / box.src_width)
    assert abs(box.height - box.src_height * scale) <= 0.5 or box.height == 1
    assert abs(box.width - box.src_width * scale) <= 0.5 or box.width == 1


@given(stretched)
def test_a_stretched_image_fills_the_input(box: Letterbox) -> None:
    assert (box.top, box.left) == (0, 0)
    assert (box.height, box.width) == (box.dst_height, box.dst_width)


@given(letterboxes | stretched, st.data())
def test_boxes_go_to_the_network_and_exactly_back(box: Letterbox, data: st.DataObject) -> None:
    xs = sorted(data.draw(st.tuples(*[st.floats(0, box.src_width)] * 2)))
    ys = sorted(data.draw(st.tuples(*[st.floats(0, box.src_height)] * 2)))
    source = np.array([[xs[0], ys[0], xs[1], ys[1]]], np.float32)
    there = box.boxes_to_network(source)
    assert (there >= [box.left, box.top] * 2).all()
    end = np.array([box.left + box.width, box.top + box.height] * 2, np.float32)
    assert (there <= end).all()
    np.testing.assert_allclose(box.boxes_to_source(there), source, atol=2e-3)


@given(letterboxes | stretched)
def test_the_whole_image_is_the_whole_region(box: Letterbox) -> None:
    whole = np.array([[0, 0, box.src_width, box.src_height]], np.float32)
    region = np.array([[box.left, box.top, box.left + box.width, box.top + box.height]], np.float32)
    np.testing.assert_allclose(box.boxes_to_network(whole), region, atol=1e-3)
    np.testing.assert_allclose(box.boxes_to_source(region), whole, atol=1e-3)
    everything = np.array([[-9, -9, box.dst_width + 9, box.dst_height + 9]], np.float32)
    np.testing.assert_array_equal(box.boxes_to_source(everything), whole)


@settings(max_examples=60, deadline=None)
@given(letterboxes | stretched)
def test_pixels_follow_the_same_map_as_boxes(box: Letterbox) -> None:
    # Two ramps whose value is the source coordinate, over 200 steps of the whole length.
    x = (np.arange(box.src_width) + 0.5) * 200 / box.src_width
    y = (np.arange(box.src_height) + 0.5) * 200 / box.src_height
    image = np.zeros((box.src_height, box.src_width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.rint(x)[None, :], np.rint(y)[:, None]
    out = np.zeros((box.dst_height, box.dst_width, 3), np.uint8)
    box.write(SourceImage(image, "rgb"), out)

    rows, columns = np.mgrid[0 : box.height, 0 : box.width] + 0.5
    centres = np.stack([columns + box.left, rows + box.top], -1).reshape(-1, 2)
    source = box.boxes_to_source(np.tile(centres, 2).astype(np.float32))[:, :2]
    # A ramp of few source pixels has steps that no interpolation follows to the very edge.
    expected = source * 200 / [box.src_width, box.src_height]
    slack = 1.01 + 100 / np.array([box.src_width, box.src_height])
    found = out[box.top : box.top + box.height, box.left : box.left + box.width, :2]
    assert (np.abs(found.reshape(-1, 2) - expected) <= slack).all()


@pytest.mark.parametrize(("height", "width"), SOURCE_SIZES[:-1])
@pytest.mark.parametrize(("net_height", "net_width"), [(384, 640), (256, 256)])
def test_masks_return_without_shift(
    height: int, width: int, net_height: int, net_width: int
) -> None:
    box = Letterbox.fit(height, width, net_height, net_width)
    rng = np.random.default_rng(3)
    shifts, overlaps = [], []
    # Blocks of at least 12 network pixels, at any sub-pixel position.
    least = int(np.ceil(12 / min(box.scale_x, box.scale_y)))
    for _ in range(30):
        h, w = rng.integers(least, [height // 2, width // 2])
        y, x = rng.integers(0, [height - h, width - w])
        mask = np.zeros((height, width), np.uint8)
        mask[y : y + h, x : x + w] = 255
        back = box.mask_to_source(box.mask_to_network(mask)) >= 128
        rows, columns = np.nonzero(back)
        shifts.append((rows.mean() - (y + (h - 1) / 2), columns.mean() - (x + (w - 1) / 2)))
        overlaps.append(float((back & (mask > 0)).sum() / (back | (mask > 0)).sum()))
    network_pixel = max(1 / box.scale_y, 1 / box.scale_x, 1.0)
    assert np.abs(shifts).max() <= 0.5 * network_pixel
    assert np.abs(np.mean(shifts, axis=0)).max() <= 0.1 * network_pixel
    assert min(overlaps) > 0.9
    assert np.mean(overlaps) > 0.96


def test_a_mask_at_half_scale_returns_exactly() -> None:
    box = Letterbox.fit(720, 1280, 384, 640)
    mask = np.zeros((720, 1280), np.uint8)
    mask[100:300, 200:640] = 255
    np.testing.assert_array_equal(
        (box.mask_to_source(box.mask_to_network(mask)) >= 128) * 255, mask
    )


@settings(max_examples=40, deadline=None)
@given(letterboxes)
def test_borders_are_padding_and_nothing_else_is(box: Letterbox) -> None:
    white = SourceImage(np.full((box.src_height, box.src_width, 3), 255, np.uint8), "rgb")
    out = np.zeros((box.dst_height, box.dst_width, 3), np.uint8)
    box.write(white, out)
    inside = out == 255
    assert inside.sum() == box.height * box.width * 3
    assert (out[~inside] == PAD_VALUE).all()


@pytest.mark.parametrize(("height", "width"), SOURCE_SIZES)
def test_every_format_gives_the_same_picture(height: int, width: int) -> None:
    box = Letterbox.fit(height, width, 384, 640)
    rgb = noise(height, width)
    alpha = noise(height, width, 1)

    def written(pixels: npt.NDArray[np.uint8], pixel_format: PixelFormat) -> npt.NDArray[np.uint8]:
        out = np.zeros((384, 640, 3), np.uint8)
        box.write(SourceImage(pixels, pixel_format), out)
        return out

    expected = written(rgb, "rgb")
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    np.testing.assert_array_equal(written(bgr, "bgr"), expected)
    np.testing.assert_array_equal(written(np.dstack([rgb, alpha]), "rgba"), expected)
    np.testing.assert_array_equal(written(np.dstack([bgr, alpha]), "bgra"), expected)
    grey = rgb[..., 0].copy()
    np.testing.assert_array_equal(written(grey, "mono"), written(np.dstack([grey] * 3), "rgb"))

    padded = np.zeros((height, width + 3, 3), np.uint8)
    padded[:, :width] = rgb
    view = padded[:, :width]
    view.flags.writeable = False
    np.testing.assert_array_equal(written(view, "rgb"), expected)


def test_shrinking_far_looks_at_every_pixel() -> None:
    box = Letterbox.fit(2160, 3840, 96, 160)
    image = np.zeros((2160, 3840, 3), np.uint8)
    image[::8] = 255  # lines that sampling four pixels in 22 would hit or miss at random
    out = np.zeros((96, 160, 3), np.uint8)
    box.write(SourceImage(image, "rgb"), out)
    region = out[box.top : box.top + box.height]
    assert np.abs(region.astype(int) - 255 / 8).max() < 25


def test_resizing_is_opencvs() -> None:
    # What the network is trained on: plain cv2.resize.
    image = noise(500, 900)
    box = Letterbox.fit(500, 900, 384, 640)
    out = np.zeros((384, 640, 3), np.uint8)
    box.write(SourceImage(image, "rgb"), out)
    expected = cv2.resize(image, (640, 356), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(out[14:370], expected)

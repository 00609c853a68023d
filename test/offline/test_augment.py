"""Augmentation keeps image, boxes and both masks aligned."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_compress.data.augment import (
    PAD_VALUE,
    LabelledImage,
    augment,
    random_affine,
    warp,
    with_fewer_pixels,
)
from offline_compress.data.mosaic import mosaic
from offline_compress.data.photometric import (
    coarse,
    headlights,
    motion_blur,
    photometric,
    recompressed,
    veil,
    vignette,
)
from offline_compress.data.targets import IGNORE


def scene(height: int = 90, width: int = 120) -> LabelledImage:
    """One white rectangle which is at once the vehicle, the drivable area and the lane."""
    image = np.zeros((height, width, 3), np.uint8)
    image[30:60, 40:80] = 255
    mask = (image[..., 0] > 0).astype(np.uint8)
    box = np.array([[40, 30, 80, 60]], np.float32)
    return LabelledImage(image, box, np.array([0]), True, mask, mask.copy())


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_all_labels_move_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 96, 128
    scale = np.exp(rng.uniform(np.log(0.6), np.log(1.7), 2))
    matrix = random_affine(90, 120, height, width, scale, rng)
    moved = warp(scene(), matrix, height, width)
    inside = moved.drivable != IGNORE
    white = cv2.cvtColor(moved.image, cv2.COLOR_RGB2GRAY) > 160
    # Sampling differs along the rectangle's edge (bilinear against nearest), nowhere else.
    edge = cv2.morphologyEx(white.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5))) > 0
    sure = inside & ~edge
    np.testing.assert_array_equal(moved.drivable[sure] == 1, white[sure])
    # The same mask as an area and as paint: paint that covers less than half a pixel counts too.
    np.testing.assert_array_equal(moved.drivable[sure], moved.lane[sure])
    if len(moved.boxes) and moved.kinds[0] == 0:
        ys, xs = np.nonzero(moved.drivable == 1)
        tight = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        # The ellipse rule leaves out at most the corners that rotation pushes outwards.
        assert np.abs(moved.boxes[0] - tight).max() < 0.12 * max(tight[2:] - tight[:2]) + 2


def test_no_rotation_means_exact_boxes() -> None:
    matrix = np.array([[-2.0, 0, 256], [0, 2.0, 0]])
    moved = warp(scene(), matrix, 180, 256)
    np.testing.assert_allclose(moved.boxes, [[96, 60, 176, 120]])
    ys, xs = np.nonzero(moved.lane == 1)
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == (96, 176, 60, 120)


def test_outside_the_image_is_padding_and_unlabelled() -> None:
    moved = warp(scene(), np.array([[1.0, 0, 10], [0, 1.0, 0]]), 90, 140)
    assert (moved.image[:, :9] == PAD_VALUE).all()
    assert (moved.drivable[:, :10] == IGNORE).all()
    assert (moved.drivable[:, 10:130] != IGNORE).all()


def test_boxes_mostly_cut_off_become_ignore_regions() -> None:
    moved = warp(scene(), np.array([[1.0, 0, -70], [0, 1.0, 0]]), 90, 120)
    assert moved.kinds.tolist() == [-2]
    gone = warp(scene(), np.array([[1.0, 0, -90], [0, 1.0, 0]]), 90, 120)
    assert len(gone.boxes) == 0


@pytest.mark.parametrize("seed", range(20))
def test_photometric_changes_values_only(seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
    changed = photometric(image.copy(), np.random.default_rng(seed))
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8


def test_same_seed_same_sample() -> None:
    first = augment(scene(), 64, 96, (0.5, 1.0), np.random.default_rng(3))
    second = augment(scene(), 64, 96, (0.5, 1.0), np.random.default_rng(3))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.boxes, second.boxes)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_flipping_twice_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (30, 40, 3), np.uint8)
    corners = np.sort(rng.uniform(0, 30, (5, 2, 2)), axis=1).astype(np.float32)
    boxes = np.concatenate((corners[:, 0], corners[:, 0] + 8), 1)
    drivable, lane = rng.choice(np.array([0, 1, IGNORE], np.uint8), (2, 30, 40))
    sample = LabelledImage(image, boxes, np.array([0, -2, 0, 0, -2]), True, drivable, lane)
    flip = np.array([[-1.0, 0, 40], [0, 1.0, 0]])
    inside = (boxes >= 0).all(1) & (boxes <= (40, 30, 40, 30)).all(1)
    again = warp(warp(sample, flip, 30, 40), flip, 30, 40)
    np.testing.assert_array_equal(again.image, image)
    np.testing.assert_array_equal(again.drivable, drivable)
    np.testing.assert_array_equal(again.lane, lane)
    kept = warp(sample, np.eye(2, 3), 30, 40)
    np.testing.assert_allclose(again.boxes, kept.boxes, atol=1e-4)
    assert inside.sum() <= len(again.boxes) <= 5


def line_scene(angle: float, width: int) -> LabelledImage:
    """A line of paint across a road that fills the lower part of the image."""
    drivable = np.zeros((240, 320), np.uint8)
    drivable[100:] = 1
    lane = np.zeros_like(drivable)
    middle = np.array([160, 120])
    along = 400 * np.array([np.cos(angle), np.sin(angle)])
    begin, end = (middle - along).astype(int), (middle + along).astype(int)
    cv2.line(lane, begin.tolist(), end.tolist(), 1, width)
    return LabelledImage(
        np.zeros((240, 320, 3), np.uint8),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.int64),
        True,
        drivable,
        lane,
    )


@given(st.floats(0, np.pi), st.integers(1, 8), st.floats(0.22, 0.99), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_thin_lanes_survive_shrinking(angle: float, width: int, scale: float, seed: int) -> None:
    sample = line_scene(angle, width)
    height, width_out = int(240 * scale), int(320 * scale)
    shift = np.random.default_rng(seed).uniform(-0.5, 0.5, 2)
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    moved = warp(sample, matrix, height, width_out)
    found = cv2.dilate((moved.lane == 1).astype(np.uint8), np.ones((5, 5)))
    ys, xs = np.nonzero(sample.lane)
    x = np.floor((xs + 0.5) * scale + shift[0]).astype(int)
    y = np.floor((ys + 0.5) * scale + shift[1]).astype(int)
    inside = (x >= 2) & (x < width_out - 2) & (y >= 2) & (y < height - 2)
    assert found[y[inside], x[inside]].all(), "a part of the line is gone"
    # And thick lines stay as thick as they are: where an edge lies along a row of pixels, all of it
    # is rounded to the same side.
    if width * scale > 2:
        area, drawn = (moved.lane == 1).sum(), sample.lane.sum()
        assert abs(area - drawn * scale**2) / (drawn / width * scale) < 1


@given(st.integers(0, 10_000), st.floats(0.25, 1.6))
@settings(max_examples=40, deadline=None)
def test_paint_on_drivable_ground_stays_drivable(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    sample = line_scene(rng.uniform(0, np.pi), int(rng.integers(1, 6)))
    on_road = replace(sample, lane=sample.lane & sample.drivable)
    matrix = random_affine(240, 320, 96, 128, (scale, scale), rng)
    moved = warp(on_road, matrix, 96, 128)
    assert (moved.drivable[moved.lane == 1] == 1).all()
    # Paint beside the road makes nothing drivable that is well outside of it.
    off_road = warp(replace(sample, drivable=np.zeros_like(sample.lane)), matrix, 96, 128)
    assert not (off_road.drivable == 1).any()


def test_unlabelled_masks_stay_unlabelled() -> None:
    blank = np.full((90, 120), IGNORE, np.uint8)
    moved = warp(replace(scene(), lane=blank), np.array([[0.4, 0, 0], [0, 0.4, 0]]), 36, 48)
    assert (moved.lane == IGNORE).all()
    assert set(np.unique(moved.drivable)) == {0, 1}


def tiles() -> list[LabelledImage]:
    """Four scenes; the second knows nothing of vehicles, the third nothing of lanes."""
    blank = np.full((90, 120), IGNORE, np.uint8)
    nothing = {"boxes": np.zeros((0, 4), np.float32), "kinds": np.zeros(0, np.int64)}
    return [
        scene(),
        replace(scene(), **nothing, has_boxes=False),
        replace(scene(), lane=blank),
        scene(),
    ]


@pytest.mark.parametrize("factor", [2, 3])
def test_with_fewer_pixels_labels_stay_where_the_image_shows_them(factor: int) -> None:
    sample = scene()
    height, width = sample.drivable.shape
    small = cv2.resize(
        sample.image, (width // factor, height // factor), interpolation=cv2.INTER_AREA
    )
    made = with_fewer_pixels(sample, small)
    assert made.reduced
    np.testing.assert_allclose(made.boxes, sample.boxes / factor)
    for mask in (made.drivable, made.lane):
        ys, xs = np.nonzero(mask == 1)
        found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(found - sample.boxes[0] / factor).max() <= 1
    # A line of one pixel is still there, and what is unlabelled is.
    line = sample.drivable * 0
    line[:, 50] = 1
    thin = with_fewer_pixels(replace(sample, lane=line, drivable=line * 0 + IGNORE), small)
    assert (thin.lane == 1).any(1).all()
    assert (thin.drivable == IGNORE).all()


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_mosaics_keep_labels_aligned_and_gaps_unlabelled(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales = [(scale, scale) for scale in rng.uniform(0.56, 1.12, 4)]
    made = mosaic(tiles(), 128, 160, scales, rng)
    assert made.image.shape == (128, 160, 3)
    assert made.has_boxes
    # The second tile is the only ignore region that reaches into the top right corner.
    corner = (made.boxes[:, 1] == 0) & (made.boxes[:, 2] == 160) & (made.kinds == -2)
    [unlabelled] = made.boxes[corner]
    x, y = int(unlabelled[0]), int(unlabelled[3])
    assert 40 <= x <= 120
    assert 32 <= y <= 96
    assert (made.lane[y:, :x] == IGNORE).all(), "the third tile has no lane labels"
    for box, kind in zip(made.boxes, made.kinds, strict=True):
        assert (box[:2] >= 0).all()
        assert (box[2:] <= (160, 128)).all()
        if kind == 0:
            x1, y1, x2, y2 = box.round().astype(int)
            assert not (x1 < x < x2), "a box reaches from one tile into the next"
            assert not (y1 < y < y2), "a box reaches from one tile into the next"
            if (box[2:] - box[:2]).min() > 6:
                assert (made.drivable[y1:y2, x1:x2] == 1).mean() > 0.7
            assert not (x1 >= x and y1 < y), "a target in the tile without vehicle labels"


def test_a_mosaic_without_any_vehicle_labels_is_unlabelled() -> None:
    made = mosaic([tiles()[1]] * 4, 64, 96, [(1.0, 1.0)] * 4, np.random.default_rng(0))
    assert not made.has_boxes
    assert len(made.boxes) == 0


def test_headlights_light_the_road_and_motion_blur_smears() -> None:
    grey = np.full((120, 160, 3), 60, np.uint8)
    rng = np.random.default_rng(1)
    lit = headlights(grey, rng)
    assert lit[70:].mean() > 1.5 * lit[:30].mean()
    spot = np.zeros((31, 31, 3), np.uint8)
    spot[15, 15] = 255
    smeared = motion_blur(spot, rng)
    assert 3 <= (smeared[..., 0] > 5).sum() <= 12
    assert abs(smeared.sum(dtype=int) - spot.sum(dtype=int)) < 0.1 * spot.sum(dtype=int)


def test_a_low_sun_veils_and_a_wide_lens_darkens_the_corners() -> None:
    rng = np.random.default_rng(1)
    pattern = np.full((120, 160, 3), 40, np.uint8)
    pattern[:, ::2] = 120
    veiled = veil(pattern, rng)
    assert veiled[..., 0].std() < 0.9 * pattern[..., 0].std()
    grey = np.full((120, 160, 3), 100, np.uint8)
    dark = vignette(grey, rng)
    assert dark[60, 80, 0] >= 98
    assert max(dark[y, x, 0] for y in (0, -1) for x in (0, -1)) <= 80


def test_coarse_and_recompressed_images_lose_detail_and_keep_their_colours() -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    image = (image * np.array([0.9, 0.5, 0.1])).astype(np.uint8)
    for change in (coarse, recompressed):
        changed = change(image, np.random.default_rng(1))
        assert changed.shape == image.shape
        np.testing.assert_allclose(changed.mean((0, 1)), image.mean((0, 1)), atol=4)
        assert (changed != image).mean() > 0.5
    assert coarse(image, np.random.default_rng(1)).std() < 0.9 * image.std()

"""Augmentation keeps image, boxes and both masks aligned."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_compress.data.augment import (
    PAD_VALUE,
    LabelledImage,
    augment,
    photometric,
    random_affine,
    warp,
)
from offline_compress.losses.targets import IGNORE


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
    matrix = random_affine(90, 120, height, width, (0.6, 1.7), rng)
    moved = warp(scene(), matrix, height, width)
    inside = moved.drivable != IGNORE
    white = cv2.cvtColor(moved.image, cv2.COLOR_RGB2GRAY) > 160
    # Sampling differs along the rectangle's edge (bilinear against nearest), nowhere else.
    edge = cv2.morphologyEx(white.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5))) > 0
    sure = inside & ~edge
    np.testing.assert_array_equal(moved.drivable[sure] == 1, white[sure])
    np.testing.assert_array_equal(moved.drivable, moved.lane)
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

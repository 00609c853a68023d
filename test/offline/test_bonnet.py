"""The own car painted into images: what it hides is no road, no paint and no vehicle."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_compress.data.augment import LabelledImage
from offline_compress.data.bonnet import BONNET_HEIGHT, BORDER, DASHBOARD_HEIGHT, with_bonnet
from offline_compress.data.targets import IGNORE

HEIGHT, WIDTH = 120, 200


def road(seed: int) -> LabelledImage:
    """All is road, paint and vehicles, in colours that no two pixels share for long."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, [WIDTH - 30, HEIGHT - 20], (12, 2))
    boxes = np.concatenate((low, low + rng.uniform(4, [30, 20], (12, 2))), 1)
    return LabelledImage(
        rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
        boxes.astype(np.float32),
        rng.choice([0, -2], 12, p=(0.8, 0.2)),
        True,
        np.ones((HEIGHT, WIDTH), np.uint8),
        np.ones((HEIGHT, WIDTH), np.uint8),
    )


def painted(seed: int) -> tuple[LabelledImage, LabelledImage, np.ndarray]:
    """Before, after, and which pixels are hidden."""
    before = road(seed)
    after = with_bonnet(before, np.random.default_rng(seed))
    return before, after, after.drivable == 0


@given(st.integers(0, 100_000))
@settings(max_examples=80, deadline=None)
def test_image_and_labels_are_hidden_together(seed: int) -> None:
    before, after, hidden = painted(seed)
    np.testing.assert_array_equal(after.lane == 0, hidden)
    assert set(np.unique(after.drivable)) <= {0, 1}
    # The edge is a pixel or two wide, or lies in the outermost pixels; beyond it nothing changes.
    changed = (after.image != before.image).any(2)
    near = cv2.dilate(hidden.astype(np.uint8), np.ones((5, 5))) > 0
    near[[0, -1]] = near[:, [0, -1]] = True
    assert not (changed & ~near).any()
    if hidden.any():
        assert changed[hidden].mean() > 0.9
    assert after.image.dtype == np.uint8
    assert hidden.mean() < 0.45
    middle = hidden[HEIGHT // 2, WIDTH // 2]
    assert not middle


@given(st.integers(0, 100_000))
@settings(max_examples=80, deadline=None)
def test_boxes_end_where_their_vehicles_are_hidden(seed: int) -> None:
    before, after, hidden = painted(seed)
    rows = zip(before.boxes, before.kinds, after.boxes, after.kinds, strict=True)
    for old, old_kind, new, new_kind in rows:
        assert (new[:2] >= old[:2]).all()
        assert (new[2:] <= old[2:]).all()
        x1, y1 = np.floor(old[:2]).astype(int)
        x2, y2 = np.ceil(old[2:]).astype(int)
        inside = hidden[y1:y2, x1:x2]
        if inside.mean() > 0.5:
            assert new_kind == -2
            continue
        assert new_kind == old_kind
        if not inside.any():
            np.testing.assert_array_equal(new, old)
        ys, xs = np.nonzero(~inside)
        seen = [x1 + xs.min(), y1 + ys.min(), x1 + xs.max() + 1, y1 + ys.max() + 1]
        assert np.abs(new - seen).max() <= 1


def test_unlabelled_stays_unlabelled_and_the_sample_as_it_was() -> None:
    blank = np.full((HEIGHT, WIDTH), IGNORE, np.uint8)
    before = replace(road(0), lane=blank)
    copies = [array.copy() for array in (before.image, before.boxes, before.kinds, before.drivable)]
    for seed in range(20):
        after = with_bonnet(before, np.random.default_rng(seed))
        assert (after.lane == IGNORE).all()
    for old, new in zip(
        copies, (before.image, before.boxes, before.kinds, before.drivable), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def test_bonnets_dashboards_and_borders_all_occur() -> None:
    top, bottom, height = [], [], []
    for seed in range(300):
        *_, hidden = painted(seed)
        top.append(hidden[:5].any() or hidden[: HEIGHT // 2, [0, -1]].any())
        bottom.append(hidden[-1].any() and not top[-1])
        height.append(hidden[:, WIDTH // 2].mean())
    assert np.mean(bottom) > 0.7
    assert 0.05 < np.mean(top) < 0.25
    assert max(height) <= max(BONNET_HEIGHT[1], 1.8 * DASHBOARD_HEIGHT[1], 2 * BORDER) + 0.02


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 400), (400, 7)])
def test_images_of_any_shape(size: tuple[int, int]) -> None:
    blank = np.full(size, IGNORE, np.uint8)
    image = np.full((*size, 3), 90, np.uint8)
    sample = LabelledImage(
        image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), False, blank, blank
    )
    for seed in range(20):
        assert with_bonnet(sample, np.random.default_rng(seed)).image.shape == image.shape

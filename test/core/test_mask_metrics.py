"""Mask figures against references written here from the definitions, by hand and at random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtc_perception.core.perception import threshold_level
from mtc_perception.metrics.masks import MaskMetric
from mtc_perception.metrics.tasks import dilate


def reference_mask(images: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float | None]:
    """Every figure of boolean predictions and labels, pixel by pixel."""
    per_image: dict[str, list[float]] = {"iou": [], "miou": [], "accuracy": []}
    totals = np.zeros(4, dtype=int)
    for predicted, label in images:
        counts = np.zeros(4, dtype=int)
        for p, t in zip(predicted.ravel(), label.ravel(), strict=True):
            counts[int(p) * 2 + int(t)] += 1
        totals += counts
        for name, value in reference_ratios(*counts).items():
            if value is not None:
                per_image[name].append(value)
    result: dict[str, float | None] = {
        name: float(np.mean(values)) if values else None for name, values in per_image.items()
    }
    for name, value in reference_ratios(*totals).items():
        result[f"{name}_pooled"] = value
    return result


def reference_ratios(tn: int, fn: int, fp: int, tp: int) -> dict[str, float | None]:
    iou = tp / (tp + fp + fn) if tp + fp + fn else None
    background = tn / (tn + fp + fn) if tn + fp + fn else None
    sensitivity = tp / (tp + fn) if tp + fn else None
    specificity = tn / (tn + fp) if tn + fp else None
    return {
        "iou": iou,
        "miou": None if iou is None or background is None else (iou + background) / 2,
        "accuracy": (
            None if sensitivity is None or specificity is None else (sensitivity + specificity) / 2
        ),
    }


def assert_same(figures: dict[str, float | None], expected: dict[str, float | None]) -> None:
    assert figures.keys() == expected.keys()
    for name, value in expected.items():
        assert (figures[name] is None) == (value is None), name
        assert value is None or figures[name] == pytest.approx(value), name


@st.composite
def mask_images(draw: st.DrawFn) -> list[tuple[np.ndarray, np.ndarray]]:
    """A few tiny images, empty and full ones included."""
    images = []
    for _ in range(draw(st.integers(1, 3))):
        height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        size = height * width
        levels = st.sampled_from([0, 1, 50, 51, 127, 128, 254, 255])
        values = draw(st.lists(levels, min_size=size, max_size=size))
        label = draw(
            st.one_of(
                st.just([False] * size),
                st.just([True] * size),
                st.lists(st.booleans(), min_size=size, max_size=size),
            )
        )
        images.append(
            (
                np.array(values, dtype=np.uint8).reshape(height, width),
                np.array(label, dtype=bool).reshape(height, width),
            )
        )
    return images


@given(images=mask_images(), threshold=st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.9, 1.0]))
@settings(max_examples=200, deadline=None)
def test_masks_agree_with_the_definition(images: list, threshold: float) -> None:
    metric = MaskMetric()
    for probability, label in images:
        metric.update(probability, label)
    expected = reference_mask([(p >= threshold * 255 - 1e-6, label) for p, label in images])
    assert_same(metric.at(threshold), expected)


def test_masks_by_hand() -> None:
    # 10 x 10 pixels each: one half right, one false alarm on an empty image, one empty and left so.
    label = np.zeros((10, 10), dtype=bool)
    label[:4] = True
    empty = np.zeros_like(label)
    predicted = np.zeros((10, 10), dtype=np.uint8)
    predicted[:2] = 255
    metric = MaskMetric()
    metric.update(predicted, label)
    metric.update(predicted, empty)
    metric.update(np.zeros_like(predicted), empty)
    figures = metric.at(0.5)
    assert figures["iou"] == pytest.approx((0.5 + 0.0) / 2)
    assert figures["miou"] == pytest.approx(((0.5 + 60 / 80) / 2 + (0 + 0.8) / 2) / 2)
    assert figures["accuracy"] == pytest.approx((0.5 + 1.0) / 2)
    assert figures["iou_pooled"] == pytest.approx(20 / 60)
    assert figures["miou_pooled"] == pytest.approx((20 / 60 + 240 / 280) / 2)
    assert figures["accuracy_pooled"] == pytest.approx((20 / 40 + 240 / 260) / 2)
    assert metric.images == 3


def test_no_image_has_no_figures() -> None:
    assert set(MaskMetric().at(0.5).values()) == {None}


def test_sweep_is_every_threshold_at_once() -> None:
    random = np.random.default_rng(3)
    images = [
        (random.integers(0, 256, (9, 11), dtype=np.uint8), random.random((9, 11)) < 0.3)
        for _ in range(3)
    ]
    metric = MaskMetric()
    for probability, label in images:
        metric.update(probability, label)
    curves = metric.sweep()
    for level in (0, 1, 77, 200, 255):
        expected = reference_mask([(p >= level, label) for p, label in images])
        for name, value in expected.items():
            assert value is not None
            assert curves[name][level] == pytest.approx(value)


def test_threshold_levels() -> None:
    assert [threshold_level(value) for value in (0.0, 0.2, 0.5, 1.0)] == [0, 51, 128, 255]
    assert threshold_level(0.2 + 0.4) == 153
    for level in range(256):
        assert threshold_level(level / 255) == level


def test_masks_of_different_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction is \(2, 3\), label \(3, 2\)"):
        MaskMetric().update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), bool))


def test_dilation_makes_a_thin_line_eight_pixels_wide() -> None:
    line = np.zeros((30, 40), dtype=bool)
    line[:, 20] = True
    wide = dilate(line, 8)
    assert wide.dtype == np.bool_
    assert set(wide.sum(axis=1)) == {8}
    assert (wide & line).sum() == line.sum()
    dot = np.zeros((30, 40), dtype=bool)
    dot[15, 20] = True
    assert dilate(dot, 8).sum() == 64

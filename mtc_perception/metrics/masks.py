"""Segmentation scores; the conventions are those of `metrics.tasks`."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.packed_mask import PackedMask
from mtc_perception.core.perception import threshold_level
from mtc_perception.metrics.detection import divide

BoolMask: TypeAlias = npt.NDArray[np.bool_]
ByteMask: TypeAlias = npt.NDArray[np.uint8]
Counts: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.floating]

LEVELS = 256
_ONE = 2**40
"""Per-image ratios are summed as whole numbers of 1 / _ONE: the same sum in any order."""


@dataclass(frozen=True, slots=True)
class MaskCounts:
    """Pixels of one image by what its mask and its label say."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


def count_pixels(mask: PackedMask, label: PackedMask) -> MaskCounts:
    """Compare a mask with its label. Raises ValueError where their shapes differ."""
    _check_shapes(mask, label)
    found, positive = mask.count(), label.count()
    both = (found + positive - mask.count_differing(label)) // 2
    pixels = mask.height * mask.width
    return MaskCounts(both, found - both, positive - both, pixels - found - positive + both)


def iou(counts: MaskCounts | None) -> float | None:
    """Of the foreground."""
    if counts is None:
        return None
    wrong = counts.false_positive + counts.false_negative
    return ratio(counts.true_positive, counts.true_positive + wrong)


def miou(counts: MaskCounts | None) -> float | None:
    """Mean of the foreground's and the background's."""
    if counts is None:
        return None
    wrong = counts.false_positive + counts.false_negative
    background = ratio(counts.true_negative, counts.true_negative + wrong)
    return mean(iou(counts), background)


def accuracy(counts: MaskCounts | None) -> float | None:
    """Mean of sensitivity and specificity."""
    if counts is None:
        return None
    sensitivity = ratio(counts.true_positive, counts.true_positive + counts.false_negative)
    specificity = ratio(counts.true_negative, counts.true_negative + counts.false_positive)
    return mean(sensitivity, specificity)


def ratio(part: float, whole: float) -> float | None:
    """None where there is nothing to count."""
    return part / whole if whole else None


def mean(one: float | None, other: float | None) -> float | None:
    """None where either is undefined."""
    return None if one is None or other is None else (one + other) / 2


class MaskMetric:
    """Streaming scores of one segmentation task, at every threshold at once.

    Per image one pair of 256-bin histograms (foreground and background pixels over predicted
    probability) is enough for all thresholds, so a threshold sweep costs no second pass.
    """

    def __init__(self) -> None:
        self.images = 0
        self._pooled = np.zeros((2, LEVELS), dtype=np.int64)
        self._sums: dict[str, Counts] = {}
        self._counts: dict[str, Counts] = {}

    def update(self, probability: ByteMask, label: BoolMask) -> None:
        """Count one image.

        `probability` is uint8 [H, W], probability x 255 (or a mask of 0 and 255), `label` bool
        [H, W]. Raises ValueError where their shapes differ.
        """
        _check_shapes(probability, label)
        foreground = _histogram(probability, np.ascontiguousarray(label).view(np.uint8))
        self._add(np.stack([_histogram(probability, None) - foreground, foreground]))

    def add(self, counts: MaskCounts) -> None:
        """Count one image whose mask of 0 and 255 was compared before."""
        histogram = np.zeros((2, LEVELS), dtype=np.int64)
        histogram[:, 0] = counts.true_negative, counts.false_negative
        histogram[:, -1] = counts.false_positive, counts.true_positive
        self._add(histogram)

    def _add(self, histogram: Counts) -> None:
        """Count one image given its pixels per label and value, [2, LEVELS]."""
        self.images += 1
        self._pooled += histogram
        for name, values in _ratios(histogram).items():
            defined = ~np.isnan(values)
            whole = np.rint(np.where(defined, values, 0.0) * _ONE).astype(np.int64)
            self._sums[name] = self._sums.get(name, 0) + whole
            self._counts[name] = self._counts.get(name, 0) + defined.astype(np.int64)

    def counts(self, threshold: float) -> MaskCounts:
        """All pixels counted so far, at one threshold in 0..1."""
        level = threshold_level(threshold)
        above, below = self._pooled[:, level:].sum(axis=1), self._pooled[:, :level].sum(axis=1)
        false_positive, true_positive = above.tolist()
        true_negative, false_negative = below.tolist()
        return MaskCounts(true_positive, false_positive, false_negative, true_negative)

    def merge(self, other: "MaskMetric") -> None:
        """Count everything `other` counted too."""
        self.images += other.images
        self._pooled += other._pooled
        for name, total in other._sums.items():
            self._sums[name] = self._sums.get(name, 0) + total
            self._counts[name] = self._counts.get(name, 0) + other._counts[name]

    def sweep(self) -> dict[str, Floats]:
        """Every figure as an array [256] over levels, NaN where undefined.

        Level `l` takes probabilities >= l / 255 for foreground.
        """
        curves: dict[str, Floats] = {}
        zero = np.zeros(LEVELS, dtype=np.int64)
        for name, pooled in _ratios(self._pooled).items():
            curves[name] = divide(self._sums.get(name, zero) / _ONE, self._counts.get(name, zero))
            curves[f"{name}_pooled"] = pooled
        return curves

    def at(self, threshold: float) -> dict[str, float | None]:
        """Every figure at one threshold in 0..1, None where undefined."""
        level = threshold_level(threshold)
        return {name: number(curve[level]) for name, curve in self.sweep().items()}

    def left_out(self, threshold: float) -> dict[str, int]:
        """Images that each per-image average leaves out, because it is undefined for them."""
        level = threshold_level(threshold)
        return {name: self.images - int(count[level]) for name, count in self._counts.items()}


def number(value: float) -> float | None:
    """A figure for JSON, which has no NaN."""
    return None if math.isnan(value) else float(value)


def _check_shapes(prediction: ByteMask | PackedMask, label: BoolMask | PackedMask) -> None:
    if prediction.shape != label.shape:
        raise ValueError(f"prediction is {prediction.shape}, label {label.shape}")


def _histogram(probability: ByteMask, where: ByteMask | None) -> Counts:
    """Pixels per value [256], of those where `where` is not 0."""
    # OpenCV counts in whole numbers and hands them out as float32: exact up to 2^24 per bin.
    counted = cv2.calcHist([np.ascontiguousarray(probability)], [0], where, [LEVELS], [0, LEVELS])
    return counted[:, 0].astype(np.int64)


def _ratios(histogram: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """Ratios [256] per level from pixel counts [2 (background, foreground), 256]; NaN undefined."""
    above = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1]
    false_positive, true_positive = above
    negative, positive = histogram.sum(axis=1)
    false_negative = positive - true_positive
    true_negative = negative - false_positive
    wrong = false_positive + false_negative
    foreground = divide(true_positive, true_positive + wrong)
    background = divide(true_negative, true_negative + wrong)
    sensitivity = divide(true_positive, np.full(LEVELS, positive))
    specificity = divide(true_negative, np.full(LEVELS, negative))
    return {
        "iou": foreground,
        "miou": (foreground + background) / 2,
        "accuracy": (sensitivity + specificity) / 2,
    }

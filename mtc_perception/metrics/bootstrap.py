"""Whether a difference of two networks on the same images is more than chance: a paired bootstrap.

A figure is a function of how much every image weighs. Both networks are resampled with the same
images, so that what is hard for both cancels out. What is drawn is not an image but a block of
neighbouring ones: they hardly differ, and taken one by one they would count as more evidence than
they are. Blocks are drawn within strata (a drive, a data set), each as often as it has blocks.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
CONFIDENCE = 0.95
BLOCK_IMAGES = 7
"""Images of one drive that are drawn together, where nothing tells when they were taken."""
_SEED = 6
LEAST_BLOCKS = 5
"""Fewer say nothing about their own spread."""
_FRAME_NUMBER = re.compile(r"\d{3,}(?!.*\d{3})")

Values: TypeAlias = npt.NDArray[np.float64]
Places: TypeAlias = npt.NDArray[np.intp]
Weights: TypeAlias = Values
"""[n] how often each image is drawn."""
Estimate: TypeAlias = Callable[[Weights], float]
"""A figure of the images so weighted; NaN where it is undefined."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of B minus that of A, 0..1."""

    change: float
    low: float | None
    """Of the 95 % interval; None where there are too few images to tell."""
    high: float | None


def drive_of(stem: str) -> str:
    """The drive that an image belongs to: what precedes the frame number in its name.

    That is the last number of three or more digits; images named by nothing else are one drive.
    """
    found = _FRAME_NUMBER.search(stem)
    return stem[: found.start()] if found else ""


def blocks_of_images(drives: Sequence[str]) -> Places:
    """The block [n] of each image, given its drive, in recorded order.

    Blocks are `BLOCK_IMAGES` images of one drive that follow each other; what a drive has over goes
    into its last block.
    """
    blocks: list[int] = []
    begin = first = 0
    while begin < len(drives):
        end = begin
        while end < len(drives) and drives[end] == drives[begin]:
            end += 1
        count = max(1, (end - begin) // BLOCK_IMAGES)
        blocks += [first + min(i // BLOCK_IMAGES, count - 1) for i in range(end - begin)]
        begin, first = end, first + count
    return np.array(blocks, np.intp)


def strata_of(drives: Sequence[str], blocks: Places, data_sets: Sequence[str]) -> list[str]:
    """The stratum of each image, given its drive, its block and its data set.

    A drive is one where its blocks are enough to tell its spread; what is left of a data set is
    one.
    """
    names = [f"{one}/{drive}" for one, drive in zip(data_sets, drives, strict=True)]
    counts = Counter(name for name, _ in set(zip(names, blocks.tolist(), strict=True)))
    return [
        name if counts[name] >= LEAST_BLOCKS else f"{one}/"
        for name, one in zip(names, data_sets, strict=True)
    ]


class Resamples:
    """The weights of every resample; the same for the same blocks. None for too few blocks."""

    def __init__(self, blocks: Places, strata: Sequence[str] | None = None) -> None:
        """`blocks` [n] counts from 0; `strata` [n] names that of each image, by default one."""
        self._blocks = blocks
        count = int(blocks.max(initial=-1)) + 1
        self._drawn: list[npt.NDArray[np.uint16]] = []
        if count < LEAST_BLOCKS:
            return
        stratum = [""] * count
        for block, name in zip(blocks.tolist(), strata or (), strict=False):
            stratum[block] = name
        members = [np.flatnonzero(np.array(stratum) == name) for name in dict.fromkeys(stratum)]
        random = np.random.default_rng(_SEED)
        for _ in range(RESAMPLES):
            drawn = np.concatenate([one[random.integers(0, len(one), len(one))] for one in members])
            self._drawn.append(np.bincount(drawn, minlength=count).astype(np.uint16))

    def __len__(self) -> int:
        return len(self._drawn)

    def __iter__(self) -> Iterator[Weights]:
        return (drawn[self._blocks].astype(np.float64) for drawn in self._drawn)


def difference(
    a: Estimate, b: Estimate, images: int, resamples: Resamples, tick: Callable[[], None]
) -> Difference:
    """The change of a figure from A to B, with its interval; `tick` is called per resample."""
    everything = np.ones(images)
    changes = []
    for weights in resamples:
        changes.append(b(weights) - a(weights))
        tick()
    return Difference(b(everything) - a(everything), *interval(changes))


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95 % interval of a figure's resamples; None where hardly any defines it."""
    known = np.array([one for one in values if np.isfinite(one)])
    if len(known) < len(values) / 2 or len(known) == 0:
        return None, None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, (tail, 1 - tail))
    return float(low), float(high)


def ratio_of(part: Values, whole: Values) -> Estimate:
    """The ratio of two sums over images."""

    def estimate(weights: Weights) -> float:
        total = float(weights @ whole)
        return float(weights @ part) / total if total else float("nan")

    return estimate


def mean_of(values: Sequence[float | None]) -> Estimate:
    """The mean over the images that have a value."""
    known = as_values(values)
    defined = ~np.isnan(known)
    return ratio_of(np.where(defined, known, 0.0), defined.astype(np.float64))


def percentile_of(values: Sequence[float | None], percent: float) -> Estimate:
    """A percentile over the images that have a value."""
    known = as_values(values)
    defined = ~np.isnan(known)

    def estimate(weights: Weights) -> float:
        drawn = np.repeat(known[defined], weights[defined].astype(np.intp))
        return float(np.percentile(drawn, percent)) if len(drawn) else float("nan")

    return estimate


def mean_over_parts(parts: Sequence[tuple[slice, Estimate]]) -> Estimate:
    """The mean of estimates that each go by the weights of some images alone, as of data sets."""

    def estimate(weights: Weights) -> float:
        values = [one(weights[images]) for images, one in parts]
        known = [value for value in values if np.isfinite(value)]
        return sum(known) / len(known) if known else float("nan")

    return estimate


def as_values(values: Sequence[float | None]) -> Values:
    """As an array [n], NaN for None."""
    return np.array([np.nan if one is None else one for one in values], np.float64)

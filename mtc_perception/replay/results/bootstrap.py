"""Is a difference between two runs more than chance? Paired bootstrap over blocks of images.

Both runs are resampled with the same images, so that what is hard for both cancels out. Images that
follow each other within a second are drawn together: a drive's neighbouring images hardly differ,
and taken one by one they would count as more evidence than they are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
BLOCK_S = 1.0
CONFIDENCE = 0.95
_SEED = 6
_LEAST_BLOCKS = 5
"""Fewer say nothing about their own spread."""

Weights = npt.NDArray[np.float64]
"""[n] how often each image is drawn."""
Estimate = Callable[[Weights], float]
"""A figure of the images so weighted; NaN where it is undefined."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of run B minus that of run A."""

    change: float
    low: float | None
    """Of the 95 % interval; None where there are too few images to tell."""
    high: float | None


def blocks_of(streams: Sequence[str], stamps_ns: Sequence[int | None]) -> npt.NDArray[np.intp]:
    """The block [n] of each image, given its stream and its stamp, in recorded order.

    One without a stamp is a block of its own.
    """
    blocks: list[int] = []
    block, begin_ns, stream = -1, 0, ""
    for one, stamp_ns in zip(streams, stamps_ns, strict=True):
        if stamp_ns is None:
            block, stream = block + 1, ""
        elif one != stream or not 0 <= stamp_ns - begin_ns < BLOCK_S * 1e9:
            block, begin_ns, stream = block + 1, stamp_ns, one
        blocks.append(block)
    return np.array(blocks, np.intp)


class Resamples:
    """The weights of every resample; the same for the same blocks. None for too few blocks."""

    def __init__(self, blocks: npt.NDArray[np.intp]) -> None:
        """`blocks` [n] as of `blocks_of`."""
        self._blocks = blocks
        count = int(blocks.max(initial=-1)) + 1
        self._drawn: list[npt.NDArray[np.float64]] = []
        if count < _LEAST_BLOCKS:
            return
        random = np.random.default_rng(_SEED)
        for _ in range(RESAMPLES):
            drawn = random.integers(0, count, count)
            self._drawn.append(np.bincount(drawn, minlength=count).astype(np.float64))

    def __len__(self) -> int:
        return len(self._drawn)

    def __iter__(self) -> Iterator[Weights]:
        return (drawn[self._blocks] for drawn in self._drawn)


def difference(
    a: Estimate, b: Estimate, images: int, resamples: Resamples, tick: Callable[[], None]
) -> Difference:
    """The change of a figure from A to B, with its interval; `tick` is called per resample."""
    everything = np.ones(images)
    change = b(everything) - a(everything)
    changes = []
    for weights in resamples:
        changes.append(b(weights) - a(weights))
        tick()
    known = np.array([one for one in changes if np.isfinite(one)])
    if len(known) < len(resamples) / 2 or len(known) == 0:
        return Difference(change, None, None)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, (tail, 1 - tail))
    return Difference(change, float(low), float(high))

"""Losses and speed of a run on its way."""

import time
from collections import deque
from collections.abc import Mapping, Sequence

SPEED_OVER = 50
"""Steps over which the images per second are averaged."""


class Speed:
    """How fast the steps of a run are, without what comes between them."""

    def __init__(self, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self._seconds: deque[float] = deque(maxlen=SPEED_OVER)
        self._step_begin_s = time.monotonic()

    def step(self) -> None:
        """Count a step."""
        now_s = time.monotonic()
        self._seconds.append(now_s - self._step_begin_s)
        self._step_begin_s = now_s

    def resume(self) -> None:
        """What came since the last step (validation, saving) is not part of the next one."""
        self._step_begin_s = time.monotonic()

    @property
    def images_per_s(self) -> float:
        """Over the last steps."""
        return self._images_per_step * len(self._seconds) / max(sum(self._seconds), 1e-9)


class LossMean:
    """Mean losses over the steps of an epoch."""

    def __init__(
        self, names: Sequence[str], sums: Sequence[float] | None = None, count: int = 0
    ) -> None:
        self._names = tuple(names)
        self.sums = list(sums or [0.0] * len(self._names))
        self.count = count

    def add(self, losses: Mapping[str, float]) -> None:
        """Count a step."""
        self.sums = [
            total + losses[name] for total, name in zip(self.sums, self._names, strict=True)
        ]
        self.count += 1

    def mean(self) -> dict[str, float]:
        """Over the steps counted, of which there is at least one."""
        return {
            name: total / self.count for total, name in zip(self.sums, self._names, strict=True)
        }


def describe_losses(losses: Mapping[str, float]) -> str:
    """Losses by name."""
    return " ".join(f"{name} {value:.3f}" for name, value in losses.items())

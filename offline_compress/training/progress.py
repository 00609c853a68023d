"""What a run shows: a live bar on a terminal, else a line at every epoch and every 30 s."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

LINE_EVERY_S = 30.0
SPEED_OVER = 50
"""Steps over which the images per second are averaged."""


class Speed:
    """How fast a run is, and when it will be over."""

    def __init__(self, images_per_step: int, steps_left: int) -> None:
        self._images_per_step = images_per_step
        self._steps_left = steps_left
        self._begin_s = time.monotonic()
        self._steps = 0
        self._seconds: deque[float] = deque(maxlen=SPEED_OVER)
        self._step_begin_s = self._begin_s

    def step(self) -> None:
        """Count a step."""
        now_s = time.monotonic()
        self._seconds.append(now_s - self._step_begin_s)
        self._step_begin_s = now_s
        self._steps += 1

    def resume(self) -> None:
        """What came since the last step (validation, saving) is not part of the next one."""
        self._step_begin_s = time.monotonic()

    @property
    def images_per_s(self) -> float:
        """Over the last steps."""
        return self._images_per_step * len(self._seconds) / max(sum(self._seconds), 1e-9)

    @property
    def left(self) -> timedelta:
        """Time to the end at the rate so far, validation included."""
        per_step_s = (time.monotonic() - self._begin_s) / max(1, self._steps)
        return timedelta(seconds=round(per_step_s * (self._steps_left - self._steps)))


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


class Display:
    """Context that shows a run, or nothing if not `shown`."""

    def __init__(self, shown: bool) -> None:
        self._console = Console(quiet=not shown)
        self._shown = shown
        self._live: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._line_s = time.monotonic()

    def __enter__(self) -> "Display":
        if self._shown and self._console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[status]}"),
                console=self._console,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def count(self, what: str, done: int, total: int, status: str = "") -> None:
        """How far the work named `what` is."""
        if self._live:
            if what not in self._bars:
                self._bars[what] = self._live.add_task(what, total=total, status="")
            bar = self._bars[what]
            self._live.update(bar, completed=done, total=total, status=status)
        elif time.monotonic() - self._line_s > LINE_EVERY_S:
            self._line_s = time.monotonic()
            self.line(f"{what} {done}/{total} {status}".rstrip())

    def done(self, what: str) -> None:
        """The work is over: its bar goes."""
        if self._live and what in self._bars:
            self._live.remove_task(self._bars.pop(what))

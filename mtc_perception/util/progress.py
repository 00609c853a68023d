"""How far work is: bars with the time left on a terminal, a line every 30 s elsewhere."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text
from typing_extensions import Self

LINE_EVERY_S = 30.0
_REFRESH_HZ = 2
"""Drawing must not take the processor from what is measured."""

Count = Callable[[float, float | None], None]
"""Told how much of a work is done, of how much; None where that is not known."""
NamedCount = Callable[[str, float, float | None], None]
"""The same of one of several works, told by name."""
Item = TypeVar("Item")


class Progress:
    """Context in which works are counted, by their names, several at a time if need be."""

    def __init__(
        self,
        *,
        shown: bool = True,
        keep: bool = False,
        alone: bool = False,
        console: Console | None = None,
    ) -> None:
        """`console` is stderr by default; `keep` leaves the bars there at the end.

        `alone`: works come one after the other, and the bar of the one before goes.
        Not `shown`: every method does nothing, as in all but one of several processes.
        """
        self._console = console or Console(stderr=True)
        self._shown, self._alone = shown, alone
        self._works: dict[str, Task] = {}
        self._lines_s: dict[str, float] = {}
        self._bars = Bars(
            _Words("description"),
            BarColumn(bar_width=20),
            _Amount(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            _Words("status"),
            console=self._console,
            transient=not keep,
            refresh_per_second=_REFRESH_HZ,
            # Over the last thousand counts, however slow they are.
            speed_estimate_period=math.inf,
            disable=not self.drawn,
        )

    @property
    def drawn(self) -> bool:
        """There are bars, on a terminal; else lines."""
        return self._shown and self._console.is_terminal

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def count(
        self, what: str, done: float, total: float | None = None, status: str = "", unit: str = ""
    ) -> None:
        """The work `what` is done up to `done` of `total`; the first call begins it.

        A `total` of 1 is a share, shown in per cent. `status` stands behind the figures; with a
        `unit`, as `img`, the rate does as well.
        """
        if not self._shown:
            return
        if (work := self._works.get(what)) is None:
            for before in list(self._works) if self._alone else ():
                self.done(before)
            self._bars.add_task(what, total=total, status=status, unit=unit)
            work = self._works[what] = self._bars.tasks[-1]
            self._lines_s[what] = time.monotonic()
        self._bars.update(work.id, completed=done, total=total, status=status, unit=unit)
        if not self.drawn and time.monotonic() - self._lines_s[what] >= LINE_EVERY_S:
            self._lines_s[what] = time.monotonic()
            self.line(_line(work))

    def counter(self, what: str, unit: str = "") -> Count:
        """`count` of one work, as a function of what is done and of how much."""
        return lambda done, total: self.count(what, done, total, unit=unit)

    def ticker(self, what: str, total: int | None = None, unit: str = "") -> Callable[[], None]:
        """`count` of one work, as a function to call after each of its `total` parts."""
        done = itertools.count()

        def tick() -> None:
            self.count(what, next(done), total, unit=unit)

        tick()
        return tick

    def track(
        self, items: Iterable[Item], what: str, total: int | None = None, unit: str = ""
    ) -> Iterator[Item]:
        """The items, `total` of them; each is done when the next one is asked for."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        tick = self.ticker(what, total, unit)
        for item in items:
            yield item
            tick()

    def done(self, what: str) -> None:
        """The work is over, or was never begun: its bar goes."""
        if (work := self._works.pop(what, None)) is not None:
            self._bars.remove_task(work.id)

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._shown:
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)


class _Words(ProgressColumn):
    """A text as it is: names may hold brackets, which rich takes for markup."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def render(self, task: Task) -> Text:
        return Text(task.description if self._name == "description" else task.fields[self._name])


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_amount(task), justify="right")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_rate(task), justify="right")


def _line(work: Task) -> str:
    """A work in words."""
    left = ""
    if work.time_remaining is not None and not work.finished:
        left = f"{timedelta(seconds=round(work.time_remaining))} left"
    words = work.description, _amount(work), _rate(work), left, work.fields["status"]
    return " ".join(filter(None, words))


def _amount(work: Task) -> str:
    if work.total == 1:
        return f"{work.completed:.0%}"
    return f"{work.completed:.0f}" + ("" if work.total is None else f"/{work.total:.0f}")


def _rate(work: Task) -> str:
    speed = work.finished_speed or work.speed
    return f"{speed:.1f} {work.fields['unit']}/s" if speed and work.fields["unit"] else ""

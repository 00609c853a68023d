"""Ctrl-C and SIGTERM end a run between two steps; a second one ends it at once."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_S = 2.0
"""Launchers pass on the signal that the terminal has sent already: not a second request."""


class Interrupted(Exception):
    """The run was saved and stopped because of `signal`."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception: what is under way is left as by Ctrl-C, tidied up."""


@contextmanager
def terminable() -> Iterator[None]:
    """Context in which SIGTERM raises Terminated, except where a StopRequest remembers it."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class StopRequest:
    """Context in which the first signal is only remembered, in `signal`; 0: none came."""

    def __init__(self) -> None:
        self.signal = 0
        self._since_s = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if not self.signal:
            self.signal, self._since_s = number, time.monotonic()
        elif time.monotonic() - self._since_s > ECHO_S:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

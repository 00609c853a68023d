"""Ctrl-C and SIGTERM, for commands that start processes of their own."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


def handle_interrupts() -> None:
    """SIGINT and SIGTERM raise KeyboardInterrupt, but only the first of them."""

    def interrupt(*_: object) -> None:
        # An impatient second one must not interrupt the clean-up.
        for number in _NUMBERS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in _NUMBERS:
        signal.signal(number, interrupt)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """SIGINT and SIGTERM that come meanwhile take effect at the end.

    For starting a process: interrupted in the middle, it would be left behind or half told what to
    do. Only the main thread is ever interrupted; in others this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    for number in _NUMBERS:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for first in came[:1]:
            signal.raise_signal(first)

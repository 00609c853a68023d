"""A thread that may be left behind, and waited for where a signal may interrupt the waiting."""

import threading
from collections.abc import Callable


class DaemonThread(threading.Thread):
    """A thread that the end of the process does not wait for.

    Up to Python 3.12 a `Thread.join` with a timeout that a signal's exception interrupts takes the
    running thread for ended, for ever. Who then lets the interpreter end under a thread in C++ code
    has the process aborted.
    """

    def __init__(self, name: str, target: Callable[[], object]) -> None:
        super().__init__(name=name, target=target, daemon=True)
        self._has_ended = threading.Event()

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._has_ended.set()

    def join(self, timeout: float | None = None) -> None:
        self._has_ended.wait(timeout)

    def is_alive(self) -> bool:
        return self.ident is not None and not self._has_ended.is_set()

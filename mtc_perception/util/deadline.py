"""What may never end, as a call into a runtime that hangs: given up in time."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from mtc_perception.util.daemon_thread import DaemonThread

_Result = TypeVar("_Result")
_POLL_S = 0.05
_GRACE_S = 0.5


class Deadline:
    """When to give up: after a time, or as soon as anybody calls `cancel`."""

    def __init__(self, seconds: float, within: "Deadline | None" = None) -> None:
        """`within` another one, it is never later than that."""
        self.seconds = seconds
        self._end_s = time.monotonic() + seconds
        self._within = within
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def remaining_s(self) -> float:
        """0 if it is time."""
        if self._cancelled:
            return 0.0
        remaining_s = max(0.0, self._end_s - time.monotonic())
        return min(remaining_s, self._within.remaining_s()) if self._within else remaining_s


class Task(Generic[_Result]):
    """A call in a daemon thread of its own: nothing in C++ can be interrupted, only left behind."""

    def __init__(
        self,
        name: str,
        call: Callable[[], _Result],
        discard: Callable[[_Result], object] = lambda _: None,
    ) -> None:
        """`discard` gets what the call returns after it was given up, in its own thread."""
        self._call = call
        self._discard = discard
        self._lock = threading.Lock()
        self._given_up = False
        self._returned: list[_Result] = []
        self._raised: BaseException | None = None
        self._thread = DaemonThread(name, self._run)
        self._thread.start()

    def result(self, deadline: Deadline, tick: Callable[[], object] = lambda: None) -> _Result:
        """What the call returns. Raises what it raises, and TimeoutError if it is given up.

        `tick` is called again and again meanwhile. What interrupts the waiting cancels the deadline
        and gives the call up, too.
        """
        try:
            while self._thread.is_alive() and deadline.remaining_s():
                self._thread.join(min(_POLL_S, deadline.remaining_s()))
                tick()
        except BaseException:
            deadline.cancel()
            self._give_up()
            for returned in self._returned:
                self._discard(returned)
            raise
        if self._thread.is_alive():
            self._give_up()
        if self._raised is not None:
            raise self._raised
        if not self._returned:
            raise TimeoutError
        return self._returned[0]

    def wait(self, seconds: float) -> None:
        """Wait so long for its end, and leave it to itself if it has not come."""
        self._thread.join(seconds)

    def _give_up(self) -> None:
        # What ends at the deadline by itself, as a trial, is given the time to clean up.
        self._thread.join(_GRACE_S)
        with self._lock:
            self._given_up = self._thread.is_alive() and not self._returned

    def _run(self) -> None:
        try:
            returned = self._call()
        except BaseException as error:  # whatever it is, it is for who waits
            self._raised = error
            return
        with self._lock:
            if not self._given_up:
                self._returned.append(returned)
                return
        self._discard(returned)

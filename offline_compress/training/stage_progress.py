"""What a stage shows while it counts: how far it is, and for how much longer."""

import time
from datetime import timedelta

from offline_compress.training.progress import Display


class Progress:
    """Context in which `count` shows one piece of work after the other, with the time left."""

    def __init__(self) -> None:
        self._display = Display(True)
        self._what = ""
        self._begin_s = 0.0

    def __enter__(self) -> "Progress":
        self._display.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._display.__exit__(*error)

    def count(self, what: str, done: int, total: int) -> None:
        """`what` is done up to `done` of `total`."""
        if what != self._what:
            self._display.done(self._what)
            self._what, self._begin_s = what, time.monotonic()
        left = ""
        if done:
            seconds = (time.monotonic() - self._begin_s) / done * (total - done)
            left = f"{timedelta(seconds=round(seconds))} left"
        self._display.count(what, done, total, left)

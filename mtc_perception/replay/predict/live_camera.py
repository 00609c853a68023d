"""A camera that is on now: always its newest image."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.replay.recordings.recording import (
    RawPixels,
    SourceError,
    SourceFrame,
)
from mtc_perception.util.daemon_thread import DaemonThread

_PATIENCE_S = 2.0
"""For a read that is under way when nobody wants images any more."""


def live_frames(word: str) -> Iterator[SourceFrame]:
    """The newest image whenever one is asked for, stamped with the time since the first one.

    `word` is the number of a camera of this machine, or the address of a stream (rtsp://, http://).
    Ends when the camera does. Raises SourceError if there is none.
    """
    capture = cv2.VideoCapture(int(word) if word.isdecimal() else word)
    if not capture.isOpened():
        what = f"camera {word}" if word.isdecimal() else word
        raise SourceError(f"{what} cannot be opened: is it there, and not in use elsewhere?")
    newest = _Newest(capture)
    index = begin_ns = 0
    try:
        while (pixels := newest.take()) is not None:
            taken_ns = time.monotonic_ns()
            begin_ns = begin_ns or taken_ns
            height, width = pixels.shape[:2]
            raw = RawPixels("bgr8", height, width, 3 * width, pixels.reshape(-1))
            yield SourceFrame(index, taken_ns - begin_ns, raw)
            index += 1
    finally:
        newest.close()
    if index == 0:
        raise SourceError(f"{word} sends no image that can be decoded")


class _Newest:
    """Reads all the time, so that what waits is never older than the last image."""

    def __init__(self, capture: Any) -> None:
        self._capture = capture
        self._pixels: npt.NDArray[np.uint8] | None = None
        self._over = False
        self._changed = threading.Condition()
        self._thread = DaemonThread("camera", self._read)
        self._thread.start()

    def take(self) -> npt.NDArray[np.uint8] | None:
        """The newest image that nobody has, waited for; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._pixels is not None or self._over)
            pixels, self._pixels = self._pixels, None
            return pixels

    def close(self) -> None:
        """End reading; a camera that hangs is left to the end of the process."""
        with self._changed:
            self._over = True
        self._thread.join(timeout=_PATIENCE_S)

    def _read(self) -> None:
        while not self._over:
            more, pixels = self._capture.read()
            with self._changed:
                self._over |= not more
                if more:
                    self._pixels = pixels
                self._changed.notify()
        self._capture.release()

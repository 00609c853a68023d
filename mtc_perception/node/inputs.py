"""What one camera's input looks like from here: waiting, ok, lost or rejected, and why."""

import time
from enum import Enum

from mtc_perception.runtime.frames import Clock, Frame, judge_stamp

LOST_AFTER_S = 1.0
LOST_AFTER_PERIODS = 5.0
"""A slow camera is lost only after this many of its own periods."""

RATE_OVER_S = 0.5
"""Shortest time to measure a rate over."""


class InputState(Enum):
    WAITING = "waiting"
    """No image since activation."""
    OK = "ok"
    LOST = "lost"
    """Images came and have stopped."""
    REJECTED = "rejected"
    """Images come, and the last one could not be used."""


class InputMonitor:
    """Follows one camera from activation on.

    The inference thread calls `accepted` and `rejected`, the executor's thread everything else;
    they share single attributes that are only replaced, so no lock is needed.
    """

    def __init__(self) -> None:
        self.clock = Clock.OK
        self.offset_ms = 0.0
        """Node clock minus stamp at the last receipt: the age, where the clocks agree."""
        self.stamps_back = 0
        """Stamps earlier than the one before: a looping replay, or a clock that was set."""
        self.qos_problem = ""
        self.resolution = ""
        self._rejection = ""
        self._stamp_ns = 0
        self._arrived_ns = 0
        self._period_s = 0.0
        self._count = 0
        self._rate_hz = 0.0
        self._counted_since_ns = time.monotonic_ns()

    def arrived(self, frame: Frame) -> None:
        if self._arrived_ns:
            period_s = (frame.arrived_ns - self._arrived_ns) / 1e9
            self._period_s = period_s if self._period_s == 0 else _blend(self._period_s, period_s)
        self._arrived_ns = frame.arrived_ns
        self._count += 1
        if frame.stamp_ns < self._stamp_ns:
            self.stamps_back += 1
        self._stamp_ns = frame.stamp_ns
        self.clock = judge_stamp(frame.stamp_ns, frame.received_ns)
        self.offset_ms = (frame.received_ns - frame.stamp_ns) / 1e6

    def accepted(self, width: int, height: int) -> None:
        self._rejection = ""
        self.resolution = f"{width}x{height}"

    def rejected(self, reason: str) -> None:
        self._rejection = reason

    def state(self, silence: str) -> tuple[InputState, str]:
        """The state and, unless it is OK, the reason in words.

        `silence` is why no image would be coming, as far as the publishers tell.
        """
        if self._arrived_ns == 0:
            return InputState.WAITING, self.qos_problem or silence
        silent_s = (time.monotonic_ns() - self._arrived_ns) / 1e9
        if silent_s > max(LOST_AFTER_S, LOST_AFTER_PERIODS * self._period_s):
            return InputState.LOST, f"no image for {silent_s:.1f} s: {silence}"
        if self._rejection:
            return InputState.REJECTED, self._rejection
        return InputState.OK, ""

    def rate_hz(self) -> float:
        """Images per second since the last call, or the last answer if that was just now."""
        now_ns = time.monotonic_ns()
        elapsed_s = (now_ns - self._counted_since_ns) / 1e9
        if elapsed_s >= RATE_OVER_S:
            self._rate_hz = self._count / elapsed_s
            self._count, self._counted_since_ns = 0, now_ns
        return self._rate_hz


def _blend(mean: float, value: float) -> float:
    return mean + (value - mean) / 8

"""Frames from arrival to outcome: the newest of each camera, bounded memory, fair turns, each
accounted for, and where its time went."""

import threading
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from mtc_perception.core.timing import percentiles
from mtc_perception.util.errors import EngineError

NS_PER_MS = 1_000_000
FUTURE_TOLERANCE_MS = 50.0
"""Synchronised clocks differ by less; a stamp further ahead means they are not."""
FAR_PAST_MS = 10_000.0
"""No live camera is this late: an older stamp means another clock, not a slow link.

Such an image is processed, whatever `max_frame_age_ms` is, and flagged."""
PAUSE_S = 30.0
"""How long a pause waits for the frame under way: a device that hangs is given up sooner, and
another engine may be loaded in its place meanwhile."""


class Clock(Enum):
    """What an image's stamp says about the clocks of camera and node."""

    OK = "ok"
    UNSET = "stamp is zero: the camera driver does not set it"
    NO_TIME = "node clock is zero: use_sim_time is set but nobody publishes /clock"
    FUTURE = "stamp is in the future: camera and node clocks differ"
    FAR_PAST = "stamp is far in the past: clocks differ, or a replay without use_sim_time"

    @property
    def age_known(self) -> bool:
        """Whether the difference of stamp and node clock is an age at all."""
        return self is Clock.OK


@dataclass(frozen=True, slots=True)
class Frame:
    """One image as it came in, unread: the callback stores it and returns."""

    camera: int
    payload: Any
    """The message itself; only the receiver knows its type."""
    stamp_ns: int
    """Header stamp of the image."""
    received_ns: int
    """Node clock (ROS time) when the callback got it."""
    arrived_ns: int
    """Monotonic clock at the same moment: the only one to take durations from."""

    @property
    def clock(self) -> Clock:
        """What its stamp says about the clocks, at receipt."""
        if self.received_ns == 0:
            return Clock.NO_TIME
        if self.stamp_ns == 0:
            return Clock.UNSET
        age_ms = (self.received_ns - self.stamp_ns) / NS_PER_MS
        if age_ms < -FUTURE_TOLERANCE_MS:
            return Clock.FUTURE
        return Clock.FAR_PAST if age_ms > FAR_PAST_MS else Clock.OK


class Outcome(Enum):
    """How a frame ended; each frame put into a slot ends in exactly one of these."""

    PROCESSED = "processed"
    DROPPED = "dropped"
    STALE = "stale"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """Where the time of one frame went. NaN where the clocks do not allow to say."""

    receive: float
    """Image stamp to subscription callback: camera, driver and transport."""
    wait: float
    """In the slot until the inference thread took it."""
    preprocess: float
    """Reading or decompressing the message, and the letterbox."""
    inference: float
    decode: float
    publish: float
    """Detections and both masks."""
    end_to_end: float
    """Image stamp to the last of these published."""


STAGES: tuple[str, ...] = tuple(field.name for field in fields(FrameTimes))


@dataclass(slots=True)
class Counters:
    """Frames of one camera; `received` is always the sum of the others."""

    received: int = 0
    processed: int = 0
    dropped: int = 0
    stale: int = 0
    malformed: int = 0
    waiting: int = 0
    """In the slot, or under way."""


class FrameSlots:
    """One slot per camera between the receiving thread and the one inference thread.

    A newer frame replaces an unread one, which counts as dropped. `take` serves the cameras in
    turn, so a fast camera cannot starve a slow one.
    """

    def __init__(self, cameras: int) -> None:
        self._slots: list[Frame | None] = [None] * cameras
        self._counters = [Counters() for _ in range(cameras)]
        self._changed = threading.Condition()
        self._next = 0
        self._open = False
        self._under_way = [0] * cameras
        self._paused = False

    def open(self) -> None:
        """Accept frames: the slots are made closed, and may be opened again after `close`."""
        with self._changed:
            self._open = True

    def put(self, frame: Frame) -> None:
        """Store the newest frame of its camera; while closed it counts as dropped."""
        with self._changed:
            counters = self._counters[frame.camera]
            counters.received += 1
            if not self._open:
                counters.dropped += 1
                return
            if self._slots[frame.camera] is not None:
                counters.dropped += 1
            self._slots[frame.camera] = frame
            self._changed.notify_all()

    def take(self) -> Frame | None:
        """Block for the next camera's newest frame; None while closed."""
        with self._changed:
            while self._open:
                frame = None if self._paused else self._next_frame()
                if frame is not None:
                    self._under_way[frame.camera] += 1
                    return frame
                self._changed.wait()
            return None

    def finish(self, camera: int, outcome: Outcome) -> None:
        """Account for a frame that `take` handed out."""
        with self._changed:
            counters = self._counters[camera]
            setattr(counters, outcome.value, getattr(counters, outcome.value) + 1)
            self._under_way[camera] -= 1
            self._changed.notify_all()

    def pause(self, timeout_s: float = PAUSE_S) -> None:
        """Wait for the frame under way and hold back the next until `resume`.

        Frames still come in, and the newest are taken afterwards. Raises EngineError if the frame
        under way is not done within `timeout_s`; then nothing is held back.
        """
        with self._changed:
            self._paused = True
            if self._changed.wait_for(lambda: not any(self._under_way), timeout_s):
                return
        self.resume()
        raise EngineError(f"the engine did not finish an image in {timeout_s:g} s")

    def resume(self) -> None:
        """End a pause."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def close(self) -> None:
        """Send the taker away; frames still waiting count as dropped."""
        with self._changed:
            self._open = False
            for camera, frame in enumerate(self._slots):
                if frame is not None:
                    self._counters[camera].dropped += 1
                    self._slots[camera] = None
            self._changed.notify_all()

    def counters(self) -> Sequence[Counters]:
        """A consistent copy, one per camera."""
        with self._changed:
            return [
                replace(counters, waiting=under_way + (slot is not None))
                for counters, under_way, slot in zip(
                    self._counters, self._under_way, self._slots, strict=True
                )
            ]

    def _next_frame(self) -> Frame | None:
        for step in range(len(self._slots)):
            camera = (self._next + step) % len(self._slots)
            frame = self._slots[camera]
            if frame is not None:
                self._slots[camera] = None
                self._next = (camera + 1) % len(self._slots)
                return frame
        return None


def stale_age_ms(clock: Clock, stamp_ns: int, now_ns: int, max_age_ms: float) -> float | None:
    """Age in ms of a frame too old to process, or None if it is to be processed.

    `max_age_ms` 0 switches the check off. A frame whose age cannot be known is processed:
    refusing it would blind the vehicle because of a clock. The diagnostics warn of that clock.
    """
    if max_age_ms <= 0 or not clock.age_known:
        return None
    age_ms = (now_ns - stamp_ns) / NS_PER_MS
    return age_ms if age_ms > max_age_ms else None


class TimingWindow:
    """The last `capacity` frames' times; one thread adds, any thread summarises."""

    def __init__(self, capacity: int = 300) -> None:
        self._rows: npt.NDArray[np.float64] = np.full((capacity, len(STAGES)), np.nan)
        self._added = 0
        self._lock = threading.Lock()

    def add(self, times: FrameTimes) -> None:
        with self._lock:
            self._rows[self._added % len(self._rows)] = astuple(times)
            self._added += 1

    def summary(self) -> dict[str, dict[str, float]]:
        """Percentiles per stage, by the names in `STAGES`."""
        with self._lock:
            rows = self._rows[: self._added].copy()
        return {stage: percentiles(rows[:, column]) for column, stage in enumerate(STAGES)}

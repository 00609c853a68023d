"""The one inference thread: newest frame in, outputs out; and the thread that watches it."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from mtc_perception.core.bundle import Limits
from mtc_perception.core.images import SourceImage
from mtc_perception.core.perception import Perception
from mtc_perception.runtime.frames import (
    NS_PER_MS,
    Frame,
    FrameSlots,
    FrameTimes,
    Outcome,
    stale_age_ms,
)
from mtc_perception.runtime.host import EngineHost, release
from mtc_perception.runtime.perceiver import Perceiver
from mtc_perception.util.daemon_thread import DaemonThread
from mtc_perception.util.errors import EngineError, ImageError, one_line

LOOK_S = 0.1
"""How often the inference thread is looked at."""
LATE_S = 0.8
"""A frame that is under way for longer is told of at once."""
HANG_S = 3.0
"""An engine that computes one image for longer is given up: more than twice what the slowest
network of docs/benchmarks.md takes on two cores, 140 times what the shipped one takes at p99."""
HANG_TIMES = 20
"""So many times as long as in its warm-up, at least: a slow network on a busy machine works on."""
STOP_S = 1.0
"""How long `InferenceWorker.stop` waits for the frame under way."""


class CameraPort(Protocol):
    """What the worker needs of a camera; called from the inference thread only."""

    def now_ns(self) -> int:
        """The clock of the frames' `received_ns`."""

    def read(self, frame: Frame) -> SourceImage:
        """The pixels of a frame. Raises ImageError."""

    def reject(self, frame: Frame, outcome: Outcome, reason: str) -> None:
        """A frame was not processed because of what it is."""

    def publish(self, frame: Frame, perception: Perception) -> None:
        """Send what was perceived."""

    def report(
        self, frame: Frame, image: SourceImage, perception: Perception, times: FrameTimes
    ) -> None:
        """Send where the time went, and the picture of it all if anybody looks at it."""


class _NotInChargeError(Exception):
    """This thread was given up while it perceived."""


class InferenceWorker:
    """Takes the newest frames and perceives them until stopped or until no engine is left.

    An engine that hangs cannot be interrupted. It is given up and replaced, and with it the thread
    that it hangs in. Should that thread come back all the same, it finds that it is no longer in
    charge, frees its engine and ends.
    """

    def __init__(
        self,
        slots: FrameSlots,
        host: EngineHost,
        ports: Sequence[CameraPort],
        limits: Limits,
        max_frame_age_ms: float,
        on_degraded: Callable[[str], None],
        on_failure: Callable[[str], None],
        on_late: Callable[[], None],
    ) -> None:
        """`limits` and `max_frame_age_ms` (0 is no limit) may be replaced at any time, each as a
        whole. `on_failure` is called once, at the end; `on_late` by the watching thread, when a
        frame has been under way for `LATE_S`."""
        self.limits = limits
        self.max_frame_age_ms = max_frame_age_ms
        self._slots = slots
        self._host = host
        self._ports = ports
        self._on_degraded = on_degraded
        self._on_failure = on_failure
        self._on_late = on_late
        self._lock = threading.Lock()
        """Who changes the thread in charge, or ends a frame or its perceiving, has it."""
        self._thread: DaemonThread | None = None
        self._under_way: Frame | None = None
        self._since_s = 0.0
        self._perceiving: Perceiver | None = None
        self._stopped = threading.Event()
        self._begin()
        self._watch = DaemonThread("watch", self._look_after)
        self._watch.start()

    def late(self) -> str:
        """What takes too long, and since when; empty if nothing does."""
        taken_s = time.monotonic() - self._since_s
        if self._under_way is None or taken_s < LATE_S:
            return ""
        if self._in_engine:
            return f"{self._host.perceiver.engine.name} has not answered for {taken_s:.1f} s"
        if self._host.failing:
            return f"{self._host.failing}; nothing has taken over for {taken_s:.1f} s"
        return f"an image has been under way for {taken_s:.1f} s, outside of the engine"

    def stop(self) -> bool:
        """Finish the frame under way and end the thread; frames still waiting are dropped.

        False if it does not end in time. Then it is given up, and the host is of no more use.
        """
        self._stopped.set()
        self._slots.close()
        self._watch.join()
        assert self._thread is not None
        self._thread.join(STOP_S)
        with self._lock:
            frame = self._under_way
            if frame is None:
                return True
            self._thread = self._under_way = None
        self._host.lose()
        self._slots.finish(frame.camera, Outcome.DROPPED)
        return False

    def _begin(self, hung: Frame | None = None) -> None:
        self._thread = DaemonThread("inference", partial(self._run, hung))
        self._thread.start()

    def _look_after(self) -> None:
        # Counted in looks: a process that was stopped as a whole, and continues, blames nobody.
        looks = 0
        seen: tuple[Frame | None, bool] = (None, False)
        while not self._stopped.wait(LOOK_S):
            frame, in_engine = self._under_way, self._in_engine
            same = frame is not None and frame is seen[0] and in_engine == seen[1]
            looks, seen = looks + 1 if same else 0, (frame, in_engine)
            if looks == round(LATE_S / LOOK_S):
                self._on_late()
            if frame is not None and in_engine and looks >= self._hang_s() / LOOK_S:
                self._give_up(frame)

    def _hang_s(self) -> float:
        return max(HANG_S, HANG_TIMES * self._host.perceiver.warm_up_s)

    @property
    def _in_engine(self) -> bool:
        perceiver = self._perceiving
        return perceiver is not None and perceiver.in_engine

    def _give_up(self, frame: Frame) -> None:
        with self._lock:
            if self._under_way is not frame or not self._in_engine:
                return  # it came back just now
            self._perceiving = None
            self._host.lose()
            self._begin(frame)

    def _run(self, hung: Frame | None) -> None:
        """`hung` is a frame that the thread before has not come back with."""
        frame = hung or self._slots.take()
        while frame is not None:
            self._since_s, self._under_way = time.monotonic(), frame
            failure = ""
            try:
                if frame is hung:
                    outcome = self._replace(EngineError(f"no answer in {self._hang_s():.3g} s"))
                else:
                    outcome = self._process(frame)
            except _NotInChargeError:
                return
            except Exception as error:  # whatever it is, the node must learn of it
                outcome, failure = Outcome.DROPPED, one_line(error)
            with self._lock:
                if self._thread is not threading.current_thread():
                    return
                self._under_way = None
            if failure:
                self._slots.close()
                self._on_failure(failure)
            # Last, so that whoever pauses the frames finds the failure.
            self._slots.finish(frame.camera, outcome)
            frame = self._slots.take()

    def _replace(self, error: EngineError) -> Outcome:
        self._on_degraded(self._host.replace(error))
        return Outcome.DROPPED

    def _perceive(self, image: SourceImage) -> Perception:
        self._perceiving = perceiver = self._host.perceiver
        try:
            return perceiver.perceive(image, self.limits)
        finally:
            with self._lock:
                in_charge = self._thread is threading.current_thread()
                if in_charge:
                    self._perceiving = None
            if not in_charge:
                release(perceiver)
                raise _NotInChargeError

    def _process(self, frame: Frame) -> Outcome:
        wait_ms = (time.monotonic_ns() - frame.arrived_ns) / NS_PER_MS
        port, max_age_ms = self._ports[frame.camera], self.max_frame_age_ms
        age_ms = stale_age_ms(frame.clock, frame.stamp_ns, port.now_ns(), max_age_ms)
        if age_ms is not None:
            reason = f"image is {age_ms:.0f} ms old, max_frame_age_ms is {max_age_ms:g}"
            port.reject(frame, Outcome.STALE, reason)
            return Outcome.STALE
        try:
            self._answer(frame, port, wait_ms)
        except ImageError as error:
            port.reject(frame, Outcome.MALFORMED, str(error))
            return Outcome.MALFORMED
        except MemoryError:  # a smaller one may do
            port.reject(frame, Outcome.MALFORMED, "the image needs more memory than there is")
            return Outcome.MALFORMED
        except EngineError as error:  # anything else is no fault of the engine's
            return self._replace(error)
        return Outcome.PROCESSED

    def _answer(self, frame: Frame, port: CameraPort, wait_ms: float) -> None:
        begin_s = time.perf_counter()
        image = port.read(frame)
        read_s = time.perf_counter() - begin_s
        perception = self._perceive(image)
        perceived_s = time.perf_counter()
        port.publish(frame, perception)
        published_s = time.perf_counter()
        end_ms = (port.now_ns() - frame.stamp_ns) / NS_PER_MS
        clock = frame.clock
        times = FrameTimes(
            receive=(frame.received_ns - frame.stamp_ns) / NS_PER_MS
            if clock.age_known
            else math.nan,
            wait=wait_ms,
            preprocess=read_s * 1e3 + perception.times.preprocess_ms,
            inference=perception.times.inference_ms,
            decode=perception.times.decode_ms,
            publish=(published_s - perceived_s) * 1e3,
            end_to_end=end_ms if clock.age_known else math.nan,
        )
        port.report(frame, image, perception, times)

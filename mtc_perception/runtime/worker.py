"""The one inference thread: newest frame in, outputs out."""

import math
import threading
import time
from collections.abc import Callable, Sequence
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
from mtc_perception.runtime.host import EngineHost
from mtc_perception.util.errors import EngineError, ImageError, one_line


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


class InferenceWorker:
    """Takes the newest frames and perceives them until stopped or until no engine is left."""

    def __init__(
        self,
        slots: FrameSlots,
        host: EngineHost,
        ports: Sequence[CameraPort],
        limits: Limits,
        max_frame_age_ms: float,
        on_degraded: Callable[[str], None],
        on_failure: Callable[[str], None],
    ) -> None:
        """`limits` and `max_frame_age_ms` (0 is no limit) may be replaced at any time, each as a
        whole. `on_failure` is called once, at the end."""
        self.limits = limits
        self.max_frame_age_ms = max_frame_age_ms
        self._slots = slots
        self._host = host
        self._ports = ports
        self._on_degraded = on_degraded
        self._on_failure = on_failure
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the frame under way and end the thread; frames still waiting are dropped."""
        self._slots.close()
        self._thread.join()

    def _run(self) -> None:
        while (frame := self._slots.take()) is not None:
            try:
                outcome = self._process(frame)
            except Exception as error:  # whatever it is, the node must learn of it
                self._slots.close()
                self._on_failure(one_line(error))
                # Last, so that whoever pauses the frames finds the failure.
                self._slots.finish(frame.camera, Outcome.DROPPED)
                return
            self._slots.finish(frame.camera, outcome)

    def _process(self, frame: Frame) -> Outcome:
        wait_ms = (time.monotonic_ns() - frame.arrived_ns) / NS_PER_MS
        port, max_age_ms = self._ports[frame.camera], self.max_frame_age_ms
        clock = frame.clock
        age_ms = stale_age_ms(clock, frame.stamp_ns, port.now_ns(), max_age_ms)
        if age_ms is not None:
            reason = f"image is {age_ms:.0f} ms old, max_frame_age_ms is {max_age_ms:g}"
            port.reject(frame, Outcome.STALE, reason)
            return Outcome.STALE
        begin_s = time.perf_counter()
        try:
            image = port.read(frame)
            read_s = time.perf_counter() - begin_s
            perception = self._host.perceiver.perceive(image, self.limits)
        except ImageError as error:
            port.reject(frame, Outcome.MALFORMED, str(error))
            return Outcome.MALFORMED
        except EngineError as error:  # anything else is no fault of the engine's
            self._on_degraded(self._host.replace(error))
            return Outcome.DROPPED
        perceived_s = time.perf_counter()
        port.publish(frame, perception)
        published_s = time.perf_counter()
        end_ms = (port.now_ns() - frame.stamp_ns) / NS_PER_MS
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
        return Outcome.PROCESSED

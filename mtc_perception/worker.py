"""The one inference thread: newest frame in, outputs out, and what to do when an engine fails."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mtc_perception.bundle import Bundle, Thresholds
from mtc_perception.engine import Engine, EngineChoice, create_engine
from mtc_perception.errors import EngineError, ImageError, UserError
from mtc_perception.frames import (
    NS_PER_MS,
    Clock,
    Frame,
    FrameSlots,
    Outcome,
    judge_stamp,
    stale_age_ms,
)
from mtc_perception.images import SourceImage
from mtc_perception.perceiver import Perceiver
from mtc_perception.perception import Perception
from mtc_perception.timing import FrameTimes, StageClock

CPU_ENGINES: tuple[EngineChoice, ...] = ("openvino", "onnxruntime")
"""Where a failed engine may be replaced, in this order."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may change from one frame to the next; replaced as a whole."""

    thresholds: Thresholds
    max_detections: int
    max_frame_age_ms: float
    """0 is no limit."""


class CameraPort(Protocol):
    """What the worker needs of a camera; called from the inference thread only."""

    def read(self, frame: Frame) -> SourceImage:
        """The pixels of a frame. Raises ImageError."""

    def reject(self, frame: Frame, outcome: Outcome, reason: str) -> None:
        """A frame was not processed because of what it is."""

    def publish(self, frame: Frame, perception: Perception) -> None:
        """Send what was perceived."""

    def report(self, frame: Frame, times: FrameTimes, clock: Clock) -> None:
        """Send where the time went."""

    def draw(self, frame: Frame, image: SourceImage, perception: Perception) -> None:
        """Send the overlay, if anybody looks at it."""


class EngineHost:
    """A bundle on an engine that is replaced by the next CPU engine when it fails."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        why: str,
        *,
        precision: str | None,
        threads: int | None,
        fallback: bool,
    ) -> None:
        """`precision` and `threads` are those asked of `create_engine` for `engine`."""
        self.bundle = bundle
        self.why = why
        self.degraded = ""
        """Why the engine in use is not the one chosen at first; empty if it is."""
        self._precision = precision
        self._threads = threads
        self._fallback = fallback
        self._perceiver = Perceiver(bundle, engine)
        self._failed: list[str] = []

    @property
    def engine(self) -> Engine:
        return self._perceiver.engine

    def perceive(self, image: SourceImage, limits: Limits) -> Perception:
        """Raises ImageError for the image, EngineError for the engine."""
        self._perceiver.thresholds = limits.thresholds
        self._perceiver.max_detections = limits.max_detections
        return self._perceiver.perceive(image)

    def replace(self, error: EngineError) -> str:
        """Move to the next CPU engine and say so; raises EngineError if there is none.

        One that has the precision asked for comes before one that has not.
        """
        failed = f"{self.engine.name} failed: {_words(error)}"
        self._failed.append(self.engine.name)
        self.close()
        if not self._fallback:
            raise EngineError(f"{failed}; parameter fallback is 'none'")
        tried = ""
        names = [name for name in CPU_ENGINES if name not in self._failed]
        for precision in dict.fromkeys((self._precision, None)):
            for name in names:
                try:
                    engine, self.why = create_engine(self.bundle, name, precision, self._threads)
                except UserError as problem:
                    tried += f"; {name}: {problem}"
                    continue
                self._perceiver = Perceiver(self.bundle, engine)
                self.degraded = f"{failed}; running on {name}"
                if precision != self._precision:
                    self.degraded += f" as {engine.precision} instead of {self._precision}"
                return self.degraded
        raise EngineError(f"{failed}; no CPU engine is left to fall back to{tried}")

    def close(self) -> None:
        # An engine that failed may fail again here; there is nothing left to lose.
        with contextlib.suppress(Exception):
            self.engine.close()


class InferenceWorker:
    """Takes the newest frames and perceives them until stopped or until no engine is left."""

    def __init__(
        self,
        slots: FrameSlots,
        host: EngineHost,
        ports: Sequence[CameraPort],
        limits: Limits,
        now_ns: Callable[[], int],
        on_degraded: Callable[[str], None],
        on_failure: Callable[[str], None],
    ) -> None:
        """`now_ns` is the node's (ROS) clock. `on_failure` is called once, as the last thing."""
        self.limits = limits
        self._slots = slots
        self._host = host
        self._ports = ports
        self._now_ns = now_ns
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
                self._slots.finish(frame.camera, Outcome.DROPPED)
                self._slots.close()
                self._on_failure(_words(error))
                return
            self._slots.finish(frame.camera, outcome)

    def _process(self, frame: Frame) -> Outcome:
        wait_ms = (time.monotonic_ns() - frame.arrived_ns) / NS_PER_MS
        lap = StageClock()
        port, limits = self._ports[frame.camera], self.limits
        clock = judge_stamp(frame.stamp_ns, frame.received_ns)
        age_ms = stale_age_ms(clock, frame.stamp_ns, self._now_ns(), limits.max_frame_age_ms)
        if age_ms is not None:
            limit = f"max_frame_age_ms is {limits.max_frame_age_ms:g}"
            port.reject(frame, Outcome.STALE, f"image is {age_ms:.0f} ms old, {limit}")
            return Outcome.STALE
        try:
            image = port.read(frame)
            read_ms = lap.lap_ms()
            perception = self._host.perceive(image, limits)
        except ImageError as error:
            port.reject(frame, Outcome.MALFORMED, str(error))
            return Outcome.MALFORMED
        except EngineError as error:  # anything else is no fault of the engine's
            self._on_degraded(self._host.replace(error))
            return Outcome.DROPPED
        lap.lap_ms()
        port.publish(frame, perception)
        publish_ms = lap.lap_ms()
        end_ms = (self._now_ns() - frame.stamp_ns) / NS_PER_MS
        times = FrameTimes(
            receive=(frame.received_ns - frame.stamp_ns) / NS_PER_MS
            if clock.age_known
            else math.nan,
            wait=wait_ms,
            preprocess=read_ms + perception.times.preprocess_ms,
            inference=perception.times.inference_ms,
            decode=perception.times.decode_ms,
            publish=publish_ms,
            end_to_end=end_ms if clock.age_known else math.nan,
        )
        port.report(frame, times, clock)
        port.draw(frame, image, perception)
        return Outcome.PROCESSED


def _words(error: Exception) -> str:
    """One line; the type only where the message was not written for users."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"

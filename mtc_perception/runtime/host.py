"""The engine in charge of the frames: how it is loaded, and what takes over when it fails."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from mtc_perception.core.bundle import Bundle, Thresholds, read_bundle
from mtc_perception.core.engine import Engine, EngineChoice
from mtc_perception.core.images import SourceImage
from mtc_perception.core.perception import Perception
from mtc_perception.engines.open import open_engine
from mtc_perception.runtime.perceiver import Perceiver
from mtc_perception.util.errors import EngineError, UserError, one_line

CPU_ENGINES: tuple[EngineChoice, ...] = ("openvino", "onnxruntime")
"""Where a failed engine may be replaced, in this order."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may change from one frame to the next; replaced as a whole."""

    thresholds: Thresholds
    max_detections: int
    max_frame_age_ms: float
    """0 is no limit."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which network is to run, and on what."""

    bundle: Path
    engine: EngineChoice
    precision: str | None
    """None takes the best that the bundle has for the engine."""
    threads: int | None
    """None lets the engine decide."""

    def __str__(self) -> str:
        precision = f" as {self.precision}" if self.precision else ""
        return f"{self.bundle} on {self.engine}{precision}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A selection that was loaded, warmed up and tested."""

    selection: Selection
    bundle: Bundle
    engine: Engine
    why: str
    """A sentence saying what was chosen and why."""


def load(selection: Selection) -> Loaded:
    """Read the bundle, load an engine for it and test it. Raises BundleError and EngineError."""
    bundle = read_bundle(selection.bundle)
    engine, why = open_engine(bundle, selection.engine, selection.precision, selection.threads)
    return Loaded(selection, bundle, engine, why)


class EngineHost:
    """The engine in charge of the frames; the next CPU engine takes over when it fails."""

    def __init__(self, loaded: Loaded, *, fallback: bool) -> None:
        """`fallback` says whether a failed engine may be replaced."""
        self._fallback = fallback
        self.switch(loaded)

    @property
    def engine(self) -> Engine:
        return self._perceiver.engine

    def switch(self, loaded: Loaded) -> None:
        """Put `loaded` in charge. Not while a frame is perceived; the caller closes the former."""
        self._perceiver = Perceiver(loaded.bundle, loaded.engine)
        self.bundle = loaded.bundle
        self.why = loaded.why
        self.degraded = ""
        """Why the engine in use is not the one chosen; empty if it is."""
        self._precision = loaded.selection.precision
        self._threads = loaded.selection.threads
        self._failed: list[str] = []

    def perceive(self, image: SourceImage, limits: Limits) -> Perception:
        """Raises ImageError for the image, EngineError for the engine."""
        self._perceiver.thresholds = limits.thresholds
        self._perceiver.max_detections = limits.max_detections
        return self._perceiver.perceive(image)

    def replace(self, error: EngineError) -> str:
        """Move to the next CPU engine and say so; raises EngineError if there is none.

        One that has the precision asked for comes before one that has not.
        """
        failed = f"{self.engine.name} failed: {one_line(error)}"
        self._failed.append(self.engine.name)
        self.close()
        if not self._fallback:
            raise EngineError(f"{failed}; parameter fallback is 'none'")
        tried = ""
        asked = self._precision
        names = [name for name in CPU_ENGINES if name not in self._failed]
        for precision in dict.fromkeys((asked, None)):
            for name in names:
                try:
                    engine, self.why = open_engine(self.bundle, name, precision, self._threads)
                except UserError as problem:
                    tried += f"; {problem}"
                    continue
                self._perceiver = Perceiver(self.bundle, engine)
                self.degraded = f"{failed}; running on {name}"
                if precision != asked:
                    self.degraded += f" as {engine.precision} instead of {asked}"
                return self.degraded
        raise EngineError(f"{failed}; no CPU engine is left to fall back to{tried}")

    def close(self) -> None:
        release(self.engine)


def release(engine: Engine) -> None:
    """Close an engine that is no longer needed."""
    # One that failed may fail again here; there is nothing left to lose.
    with contextlib.suppress(Exception):
        engine.close()

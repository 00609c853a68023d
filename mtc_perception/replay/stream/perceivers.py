"""Perceivers that are opened once and used for one stream after the other."""

from pathlib import Path

from typing_extensions import Self

from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.engine import EngineChoice
from mtc_perception.runtime.perceiver import Perceiver

SCORE_FLOOR = 0.001
"""Detections below this cannot change any figure, only cost time."""


class PerceiverPool:
    """One perceiver per network and engine that was asked for; use as a context manager."""

    def __init__(self) -> None:
        self._open: dict[tuple[object, ...], Perceiver] = {}

    def get(
        self,
        bundle: Path,
        engine: EngineChoice,
        precision: str | None = None,
        threads: int | None = None,
        score: float | None = None,
    ) -> Perceiver:
        """A perceiver at the bundle's thresholds, or with another least score.

        Raises BundleError and EngineError.
        """
        key = (bundle.absolute(), engine, precision, threads, score)
        if key not in self._open:
            thresholds = read_bundle(bundle).manifest.thresholds
            if score is not None:
                thresholds = thresholds.model_copy(update={"score": score})
            self._open[key] = Perceiver.open(
                bundle, engine, precision=precision, threads=threads, thresholds=thresholds
            )
        return self._open[key]

    def close(self) -> None:
        """Release all of them."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

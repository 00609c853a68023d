"""Perceivers that are opened once and used for one stream after the other."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from typing_extensions import Self

from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.engine import EngineChoice
from mtc_perception.runtime.perceiver import Perceiver
from mtc_perception.util.errors import EngineError, UserError


class PerceiverPool:
    """One perceiver per network and engine that was asked for; use as a context manager."""

    def __init__(self) -> None:
        self._open: dict[tuple[object, ...], Perceiver] = {}

    @contextmanager
    def lend(
        self,
        bundle: Path,
        engine: EngineChoice,
        precision: str | None = None,
        threads: int | None = None,
        score: float | None = None,
    ) -> Iterator[Perceiver]:
        """A perceiver at the bundle's thresholds, or with another least score.

        One that fails meanwhile is closed, and the next time opened anew: after a fault many
        engines never answer again. Raises BundleError and EngineError.
        """
        key = (bundle.absolute(), engine, precision, threads, score)
        if key not in self._open:
            thresholds = read_bundle(bundle).manifest.thresholds
            if score is not None:
                thresholds = thresholds.model_copy(update={"score": score})
            self._open[key] = Perceiver.open(
                bundle, engine, precision=precision, threads=threads, thresholds=thresholds
            )
        try:
            yield self._open[key]
        except BaseException as error:
            # What the recording or its labels are to blame for does not concern the engine.
            if isinstance(error, EngineError) or not isinstance(error, UserError):
                with suppress(EngineError):
                    self._open.pop(key).close()
            raise

    def close(self) -> None:
        """Release all of them."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

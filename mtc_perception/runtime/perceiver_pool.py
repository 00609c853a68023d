"""Perceivers that are opened once and used for one stream after the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from typing_extensions import Self

from mtc_perception.runtime.host import release
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver
from mtc_perception.util.errors import EngineError, UserError


class PerceiverPool:
    """One perceiver per network and engine that was asked for; use as a context manager."""

    def __init__(self) -> None:
        self._open: dict[Selection, Perceiver] = {}

    @contextmanager
    def lend(self, selection: Selection) -> Iterator[Perceiver]:
        """A perceiver for `selection`, perhaps one that is lent out already.

        One that fails meanwhile is closed, and the next time opened anew: after a fault many
        engines never answer again. Raises BundleError and EngineError.
        """
        key = replace(selection, bundle=selection.bundle.absolute())
        if key not in self._open:
            self._open[key] = open_perceiver(selection)
        try:
            yield self._open[key]
        except BaseException as error:
            # What the recording or its labels are to blame for does not concern the engine.
            faulty = isinstance(error, EngineError) or not isinstance(error, UserError)
            if faulty and (failed := self._open.pop(key, None)) is not None:
                release(failed)
            raise

    def close(self) -> None:
        """Release all of them."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

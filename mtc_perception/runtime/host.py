"""The engine in charge of the frames: what takes over when it fails, how another one comes in."""

import contextlib
import threading
from collections.abc import Callable

from mtc_perception.core.engine import EngineChoice
from mtc_perception.engines.open import open_engine
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver
from mtc_perception.util.errors import EngineError, UserError, one_line

CPU_ENGINES: tuple[EngineChoice, ...] = ("openvino", "onnxruntime")
"""Where a failed engine may be replaced, in this order."""


class EngineHost:
    """Has the perceiver in charge of the frames; the next CPU engine takes over when its fails."""

    def __init__(self, selection: Selection, perceiver: Perceiver, *, fallback: bool) -> None:
        """`perceiver` is what `selection` was opened as; `fallback` says whether a failed engine
        may be replaced."""
        self._fallback = fallback
        self.switch(selection, perceiver)

    def switch(self, selection: Selection, perceiver: Perceiver) -> None:
        """Put `perceiver` in charge. Not while it perceives; the caller closes the former."""
        self.perceiver = perceiver
        self.degraded = ""
        """Why the engine in use is not the one chosen; empty if it is."""
        self._selection = selection
        self._failed: list[str] = []

    def replace(self, error: EngineError) -> str:
        """Move to the next CPU engine and say so; raises EngineError if there is none.

        One that has the precision asked for comes before one that has not.
        """
        bundle, failed_engine = self.perceiver.bundle, self.perceiver.engine.name
        failed = f"{failed_engine} failed: {one_line(error)}"
        self._failed.append(failed_engine)
        self.close()
        if not self._fallback:
            raise EngineError(f"{failed}; parameter fallback is 'none'")
        tried = ""
        asked, threads = self._selection.precision, self._selection.threads
        names = [name for name in CPU_ENGINES if name not in self._failed]
        for precision in dict.fromkeys((asked, None)):
            for name in names:
                try:
                    engine, _, why = open_engine(bundle, name, precision, threads)
                except UserError as problem:
                    tried += f"; {problem}"
                    continue
                self.perceiver = Perceiver(bundle, engine, why)
                self.degraded = f"{failed}; running on {name}"
                if precision != asked:
                    self.degraded += f" as {engine.precision} instead of {asked}"
                return self.degraded
        raise EngineError(f"{failed}; no CPU engine is left to fall back to{tried}")

    def close(self) -> None:
        release(self.perceiver)


def release(perceiver: Perceiver) -> None:
    """Close a perceiver that is no longer needed."""
    # An engine that failed may fail again here; there is nothing left to lose.
    with contextlib.suppress(Exception):
        perceiver.close()


class PerceiverLoader:
    """Opens a perceiver beside the running one, in a thread of its own; one at a time.

    All methods are for one thread.
    """

    def __init__(self, on_done: Callable[[], None]) -> None:
        """`on_done` is called by the loading thread as `take` becomes possible."""
        self._on_done = on_done
        self._thread: threading.Thread | None = None
        self._loaded: Perceiver | UserError | None = None
        self.selection: Selection | None = None
        """What is being loaded."""

    def start(self, selection: Selection, pause: Callable[[], None]) -> None:
        """Begin to load. Raises EngineError while another one is being loaded.

        Once it is loaded, the loading thread calls `pause`, which waits for the time to take it;
        what it raises is why there is nothing to take.
        """
        if self.selection is not None:
            raise EngineError(f"busy loading {self.selection}: try again when that is done")
        self.selection = selection
        self._thread = threading.Thread(
            target=self._run, args=(selection, pause), name="engine loader", daemon=True
        )
        self._thread.start()

    def take(self) -> Perceiver:
        """What was loaded, now the caller's to close. Raises why it could not be loaded."""
        assert self._thread is not None
        self._thread.join()
        loaded, self._loaded = self._loaded, None
        self._thread, self.selection = None, None
        assert loaded is not None
        if isinstance(loaded, UserError):
            raise loaded
        return loaded

    def close(self) -> None:
        """Wait for the thread, since no runtime can be interrupted, and close what it loaded."""
        if self._thread is not None:
            self._thread.join()
        if isinstance(self._loaded, Perceiver):
            release(self._loaded)
        self._loaded = None

    def _run(self, selection: Selection, pause: Callable[[], None]) -> None:
        try:
            self._loaded = _opened(selection, pause)
        except UserError as error:
            self._loaded = error
        except Exception as error:  # whatever it is, whoever waits must learn of it
            self._loaded = EngineError(one_line(error))
        self._on_done()


def _opened(selection: Selection, pause: Callable[[], None]) -> Perceiver:
    perceiver = open_perceiver(selection)
    try:
        pause()
    except BaseException:
        release(perceiver)
        raise
    return perceiver

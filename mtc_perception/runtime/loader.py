"""Loads an engine beside the running one, in a thread of its own."""

import threading
from collections.abc import Callable

from mtc_perception.runtime.host import Loaded, Selection, load, release
from mtc_perception.util.errors import EngineError, UserError, one_line


class EngineLoader:
    """One engine at a time; all methods are for one thread."""

    def __init__(self, on_done: Callable[[], None]) -> None:
        """`on_done` is called by the loading thread as `take` becomes possible."""
        self._on_done = on_done
        self._thread: threading.Thread | None = None
        self._loaded: Loaded | UserError | None = None
        self.selection: Selection | None = None
        """What is being loaded."""

    def start(self, selection: Selection) -> None:
        """Begin to load. Raises EngineError while another engine is being loaded."""
        if self.selection is not None:
            raise EngineError(f"busy loading {self.selection}: try again when that is done")
        self.selection = selection
        self._thread = threading.Thread(
            target=self._run, args=(selection,), name="engine loader", daemon=True
        )
        self._thread.start()

    def take(self) -> Loaded:
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
        if isinstance(self._loaded, Loaded):
            release(self._loaded.engine)
        self._loaded = None

    def _run(self, selection: Selection) -> None:
        try:
            self._loaded = load(selection)
        except UserError as error:
            self._loaded = error
        except Exception as error:  # whatever it is, whoever waits must learn of it
            self._loaded = EngineError(one_line(error))
        self._on_done()

"""The engine in charge of the frames: what takes over when it fails, how another one comes in."""

import math
from collections.abc import Callable
from functools import partial

from mtc_perception.core.bundle import EngineName
from mtc_perception.engines.load import CPU_ENGINES
from mtc_perception.engines.open import open_engine, try_engine
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver
from mtc_perception.util.daemon_thread import DaemonThread
from mtc_perception.util.deadline import Deadline, Task
from mtc_perception.util.errors import EngineError, UserError, one_line

LOAD_S = 60.0
"""How long an engine may take to load, its trial included: the shipped network takes 3 s."""
CLOSE_S = 0.1
"""How long anybody waits for an engine to close."""
GIVE_UP_S = 1.0
"""How long a load that was given up may take to clean up."""


class EngineHost:
    """Has the perceiver in charge of the frames; the next CPU engine takes over when its fails."""

    def __init__(self, selection: Selection, perceiver: Perceiver) -> None:
        """`perceiver` is what `selection` was opened as."""
        self.failures = 0
        """Of engines, since this host was made."""
        self._life = Deadline(math.inf)
        self.switch(selection, perceiver)

    def switch(self, selection: Selection, perceiver: Perceiver) -> None:
        """Put `perceiver` in charge. Not while it perceives; the caller closes the former."""
        self.perceiver = perceiver
        self.degraded = ""
        """Why the engine in use is not the one chosen; empty if it is."""
        self.failing = ""
        """Why no engine is at work while the next one is being opened; empty if one is."""
        self._selection = selection
        self._failed: list[str] = []
        self._lost = False

    def try_fallback(self) -> None:
        """Begin the trials of the engines that may have to take over, and return.

        When one fails it is too late: images are lost meanwhile.
        """
        if self._selection.fallback:
            bundle, running = self.perceiver.bundle, self.perceiver.engine.name
            precision = self._selection.precision

            def try_them() -> None:
                for name in CPU_ENGINES:
                    if name != running:
                        try_engine(bundle, name, precision, Deadline(LOAD_S, within=self._life))

            Task("engine trials", try_them)

    def lose(self) -> None:
        """The perceiver never came back from an image: nothing is done to it any more."""
        self._lost = True

    def replace(self, error: EngineError) -> str:
        """Move to the next CPU engine and say so; raises EngineError if there is none.

        One that has the precision asked for comes before one that has not.
        """
        bundle, failed_engine = self.perceiver.bundle, self.perceiver.engine.name
        failed = f"{failed_engine} failed: {one_line(error)}"
        self.failures += 1
        self._failed.append(failed_engine)
        self.failing = failed
        self._release()
        if not self._selection.fallback:
            raise EngineError(f"{failed}; parameter fallback is 'none'")
        tried = ""
        asked, threads = self._selection.precision, self._selection.threads
        names = [name for name in CPU_ENGINES if name not in self._failed]
        for precision in dict.fromkeys((asked, None)):
            for name in names:
                deadline = Deadline(LOAD_S, within=self._life)

                def open_next(
                    name: EngineName = name,
                    precision: str | None = precision,
                    deadline: Deadline = deadline,
                ) -> Perceiver:
                    opened = open_engine(bundle, name, precision, threads, deadline)
                    return Perceiver(bundle, opened.engine, opened.why, opened.warm_up_s)

                try:
                    self.perceiver = in_time(open_next, deadline)
                except UserError as problem:
                    tried += f"; {problem}"
                    continue
                self._lost, self.failing = False, ""
                self.degraded = f"{failed}; running on {name}"
                if precision != asked:
                    self.degraded += f" as {self.perceiver.engine.precision} instead of {asked}"
                return self.degraded
        raise EngineError(f"{failed}; no CPU engine is left to fall back to{tried}")

    def close(self) -> None:
        """Close the perceiver, and end trials and replacements that are under way."""
        self._life.cancel()
        self._release()

    def _release(self) -> None:
        if not self._lost:
            release(self.perceiver)


def in_time(
    opening: Callable[[], Perceiver], deadline: Deadline, tick: Callable[[], object] = lambda: None
) -> Perceiver:
    """What `opening` opens, in a thread of its own; given up at the deadline.

    `tick` is called again and again meanwhile. Raises UserError, whatever `opening` raises.
    """
    try:
        return Task("engine opener", opening, release).result(deadline, tick)
    except UserError:
        raise
    except TimeoutError:
        raise EngineError(f"not loaded within {deadline.seconds:g} s: given up") from None
    except Exception as error:
        raise EngineError(one_line(error)) from error


def release(perceiver: Perceiver) -> None:
    """Close a perceiver that is no longer needed, without waiting for one that hangs.

    Raises nothing: an engine that failed may fail again, and there is nothing left to lose.
    """
    Task("engine closer", perceiver.close).wait(CLOSE_S)


class PerceiverLoader:
    """Opens a perceiver beside the running one, in a thread of its own; one at a time.

    All methods are for one thread.
    """

    def __init__(self, on_done: Callable[[], None]) -> None:
        """`on_done` is called by the loading thread as `take` becomes possible."""
        self._on_done = on_done
        self._thread: DaemonThread | None = None
        self._deadline = Deadline(LOAD_S)
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
        self._deadline = Deadline(LOAD_S)
        self._thread = DaemonThread("engine loader", partial(self._run, selection, pause))
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
        """Give up what is being loaded, and close what was."""
        self._deadline.cancel()
        if self._thread is not None:
            self._thread.join(GIVE_UP_S)
        if isinstance(self._loaded, Perceiver):
            release(self._loaded)
        self._loaded = None

    def _run(self, selection: Selection, pause: Callable[[], None]) -> None:
        try:
            perceiver = in_time(partial(open_perceiver, selection, self._deadline), self._deadline)
            try:
                pause()
            except BaseException:
                release(perceiver)
                raise
            self._loaded = perceiver
        except UserError as error:
            self._loaded = error
        except Exception as error:  # whatever it is, whoever waits must learn of it
            self._loaded = EngineError(one_line(error))
        self._on_done()

"""Worker processes: started fresh, deaf to Ctrl-C, gone when their parent is."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from mtc_perception.util.errors import ReplayError, UserError
from mtc_perception.util.interrupts import interrupts_held

_Reply = TypeVar("_Reply")
_JOIN_S = 5.0


class WorkerProcess:
    """One process running `target(connection, *arguments)`; use as a context manager.

    Both sides send picklable objects. A `UserError` or crash in the worker is raised here by
    `receive`.
    """

    def __init__(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        # Not forked: DDS and OpenCV threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(theirs, target, arguments), name=name, daemon=True
        )
        resource_tracker.ensure_running()  # its start would undo the mask
        with interrupts_held(), _without_sigint():
            self._process.start()
        theirs.close()

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join(_JOIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def send(self, message: object) -> None:
        """Raises ReplayError if the worker is gone."""
        try:
            self._connection.send(message)
        except OSError:
            raise self._gone() from None

    def receive(self, kind: type[_Reply], timeout_s: float) -> _Reply | None:
        """The next message, or None after `timeout_s`. Raises what the worker raised."""
        if not self._connection.poll(timeout_s):
            return None
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if isinstance(message, Exception):
            raise message
        if not isinstance(message, kind):
            raise ReplayError(f"the {self.name} sent {type(message).__name__} out of turn")
        return message

    def kill(self) -> None:
        """End it now: it may hang."""
        self._process.kill()

    def _gone(self) -> ReplayError:
        self._process.join(_JOIN_S)
        return ReplayError(f"the {self.name} process ended (exit code {self._process.exitcode})")


def wait_for_any(workers: Iterable[WorkerProcess], timeout_s: float) -> list[WorkerProcess]:
    """Those with something to `receive`, their end included; empty after `timeout_s`."""
    by_connection = {worker._connection: worker for worker in workers}
    return [by_connection[ready] for ready in wait(list(by_connection), timeout_s)]  # type: ignore[index]


def stop_if_alone(connection: Connection) -> None:
    """For a busy worker to call now and then, while its parent has nothing to say.

    Raises EOFError, which ends the worker, when the parent has gone or given up.
    """
    if connection.poll():
        connection.recv()


@contextmanager
def _without_sigint() -> Iterator[None]:
    """Processes started meanwhile are deaf to Ctrl-C from their very beginning."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(connection: Connection, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C reaches the whole foreground group; the parent decides what ends when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        target(connection, *arguments)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone or has closed the connection: nobody waits for this work
    except UserError as error:
        _tell(connection, error)
    except Exception as error:
        name = threading.current_thread().name
        _tell(connection, ReplayError(f"{type(error).__name__} in {name}: {error}"))
        raise


def _tell(connection: Connection, error: UserError) -> None:
    """Send an error to whoever waits for this work, which nobody may do any longer."""
    with suppress(OSError):
        connection.send(error)

"""Python programs without their start: forked from a clean process that has imported what takes
seconds."""

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "mtc_perception.replay.run.evaluation",
        "offline_compress.pipeline.pipeline",
        "offline_compress.training.trainer",
        "torch._inductor",
    ]
)
Around = contextlib.AbstractContextManager[object]
TIMEOUT_S = 300
"""Only a failing test waits so long."""


class Program:
    """`python WORDS...` in a session of its own, with this process's environment and folder."""

    def __init__(
        self, words: Sequence[object], around: Callable[[], Around] = contextlib.nullcontext
    ) -> None:
        """The program runs inside of `around()`, which can be pickled."""
        self._said = tempfile.TemporaryDirectory()
        names = [str(Path(self._said.name, name)) for name in ("output", "errors")]
        here = (os.getcwd(), dict(os.environ))
        self._process = PROCESSES.Process(
            target=_be, args=([str(word) for word in words], around, *here, *names)
        )
        self._process.start()
        self.pid = self._process.pid or 0

    def running(self) -> bool:
        return self._process.is_alive()

    def send(self, number: int) -> None:
        """Send a signal to the program and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def finish(self) -> tuple[int, str, str]:
        """Exit code (negative: the signal that ended it); what it wrote to stdout and to stderr."""
        self._process.join(TIMEOUT_S)
        if self.running():
            self.send(signal.SIGKILL)
            self._process.join()
        assert self._process.exitcode is not None
        with self._said:
            said = [path.read_text() for path in sorted(Path(self._said.name).iterdir())]
        return self._process.exitcode, said[1], said[0]

    def wait_until(self, happened: Callable[[], object]) -> None:
        """Wait, while the program runs, until something has happened."""
        end_s = time.monotonic() + TIMEOUT_S
        while not happened():
            assert self.running(), self.finish()
            assert time.monotonic() < end_s
            time.sleep(0.01)


def _be(
    words: Sequence[str],
    around: Callable[[], Around],
    folder: str,
    environment: dict[str, str],
    *said: str,
) -> None:
    """Be that program."""
    os.setsid()
    for number, name in enumerate(said, 1):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None  # as the environment says
    # That a module is imported by now is why this is quick.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    with around():
        match words:
            case "-c", code, *rest:
                sys.argv = ["-c", *rest]
                exec(code, {"__name__": "__main__"})
            case "-m", module, *rest:
                sys.argv = [module, *rest]
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            case script, *rest:
                sys.argv = [script, *rest]
                runpy.run_path(script, run_name="__main__")

"""Trials: a graph is first compiled and run in a process of its own, `python -m` this module.

Runtimes have been seen to crash on quantised graphs instead of refusing them; then it is not the
node that dies, nor the process with hours of work in it.
"""

import ctypes
import hashlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mtc_perception.core.bundle import EngineName, SelfTest
from mtc_perception.core.engine import Network
from mtc_perception.core.self_test import check_well_formed, measure_self_test, run_self_test
from mtc_perception.engines.cpu import cpu_model
from mtc_perception.engines.load import load_engine
from mtc_perception.util.deadline import Deadline
from mtc_perception.util.errors import EngineError, UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.private import cache_folder, make_private, why_not_private

TIMEOUT_S = 900.0
"""Large networks are compiled for minutes; who cannot wait so long gives a deadline."""
_POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
RAN = "ran"
MANY_CLASSES = 2**31
"""Labels are not what a trial is about."""
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")
"""Signals that a process brings upon itself. Others come from outside and say nothing of it."""


def run_trial(
    network: Network,
    engine: EngineName,
    tolerance: float = 0.05,
    deadline: Deadline | None = None,
    niceness: int = 0,
) -> SelfTest:
    """Load a graph into an engine and run the self-test frame; returns its golden values.

    `tolerance` is recorded with them; `niceness` is added to this process's own. Raises
    `TrialError` if the engine crashes, if the process is killed or does not end before the
    deadline, EngineError if it refuses the graph or gives malformed answers.
    """
    arguments = {
        "precision": network.precision,
        "height": network.height,
        "width": network.width,
        "max_detections": network.max_detections,
        "tasks": list(network.tasks),
        "tolerance": tolerance,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(network.model)
        words = [engine, str(path), json.dumps(arguments), str(os.getpid()), str(niceness)]
        done = _run([sys.executable, "-m", __name__, *words], deadline or Deadline(TIMEOUT_S))
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        if name in CRASHES:
            # Runtimes abort where memory is short, too.
            lasting = resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
            raise TrialError(f"crashes ({name})", lasting=lasting)
        raise TrialError(f"was killed ({name}) in its trial", lasting=False)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else "it does not say why"
    if done.returncode > 0:
        raise EngineError(last)
    return SelfTest.model_validate_json(last)


def _run(command: Sequence[str], deadline: Deadline) -> subprocess.CompletedProcess[str]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, errors="replace"
    ) as process:
        try:
            while deadline.remaining_s():
                with suppress(subprocess.TimeoutExpired):
                    said = process.communicate(timeout=_POLL_S)
                    return subprocess.CompletedProcess(command, process.returncode, *said)
            # The machine may have been busy.
            raise TrialError(f"does not finish in {deadline.seconds:.0f} s", lasting=False)
        finally:
            process.kill()  # if it still runs


class TrialError(EngineError):
    """An engine did not survive its trial."""

    def __init__(self, what: str, *, lasting: bool) -> None:
        """`lasting` says whether it would do the same again."""
        super().__init__(what)
        self.lasting = lasting


def ensure_tried(
    network: Network, engine: EngineName, deadline: Deadline | None = None, niceness: int = 0
) -> str:
    """See to it that this machine has tried a graph on a CPU engine before it is loaded here.

    Costs nothing where it has: that it ran, or crashed, is kept under the versions of engine and
    processor and the sha256 of the graph. Returns "", or why that could not be kept. Raises
    EngineError if the engine does not survive it, or does not run the graph.
    """
    if not is_installed(engine):
        return ""  # loading says what is missing
    memory = TrialMemory(network, engine)
    known = memory.read("outcome")
    if known == RAN:
        return ""
    if known is not None:
        raise EngineError(f"{known}, as tried before; to try again remove {memory.record}")
    try:
        run_trial(network, engine, deadline=deadline, niceness=niceness)
    except TrialError as error:
        if error.lasting:
            memory.write("outcome", str(error))
        raise
    return memory.write("outcome", RAN)


class TrialMemory:
    """What this machine knows of a graph on an engine that is installed, in the user's cache.

    Processes that write it at the same time write the same: the last one wins.
    """

    def __init__(self, network: Network, engine: EngineName) -> None:
        self._about = {
            "engine": f"{engine} {importlib.import_module(engine).__version__}",
            "cpu": cpu_model(),
            "sha256": hashlib.sha256(network.model).hexdigest(),
        }
        name = hashlib.sha256(json.dumps(self._about).encode()).hexdigest()[:32]
        cache = cache_folder()
        self.record = cache / "trials" / f"{name}.json" if cache else None

    def read(self, key: str) -> str | None:
        """A kept value; None if there is none, or if it cannot be read."""
        value = self._content().get(key)
        return value if isinstance(value, str) else None

    def write(self, key: str, value: str) -> str:
        """Keep a value; returns "", or why it could not be kept."""
        if self.record is None:
            return "the outcome of its trial is not kept: there is no home folder"
        content = self._content() | self._about | {key: value}
        try:
            make_private(self.record.parent)
            if reason := why_not_private(self.record.parent):
                return f"the outcome of its trial is not kept: {reason}"
            write_text_atomic(self.record, json.dumps(content, indent=2) + "\n", private=True)
        except OSError as error:
            return f"the outcome of its trial is not kept: {error}"
        return ""

    def _content(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            # What others could have written is not believed.
            if self.record is None or any(map(why_not_private, (self.record.parent, self.record))):
                return {}
            content = json.loads(self.record.read_text())
            if isinstance(content, dict) and self._about.items() <= content.items():
                return content
        return {}


def is_installed(engine: EngineName) -> bool:
    """Whether the engine's module can be imported, whichever package brings it."""
    with suppress(Exception):
        importlib.import_module(engine)
        return True
    return False


def _golden_values(engine: EngineName, graph: bytes, arguments: dict[str, Any]) -> SelfTest:
    tolerance = arguments.pop("tolerance")
    network = Network(graph, **arguments)
    loaded = load_engine(network, engine, threads=1)
    outputs = run_self_test(loaded)
    check_well_formed(outputs, MANY_CLASSES, (network.height, network.width))
    golden = measure_self_test(outputs, tolerance)
    loaded.close()
    return golden


def _end_with(parent: int) -> None:
    """End as soon as the process that waits does, even if it is killed."""
    with suppress(AttributeError, OSError):  # not on Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("nobody waits for the outcome")


def _main() -> None:
    engine, path, arguments, parent, niceness = sys.argv[1:]
    _end_with(int(parent))
    os.nice(int(niceness))
    try:
        golden = _golden_values(engine, Path(path).read_bytes(), json.loads(arguments))  # type: ignore[arg-type]
    except UserError as error:
        raise SystemExit(str(error)) from None
    print(golden.model_dump_json())


if __name__ == "__main__":
    _main()

"""Trials: a graph is first compiled and run in a process of its own, `python -m` this module.

Runtimes have been seen to crash on quantised graphs instead of refusing them; then it is not the
node that dies, nor the process with hours of work in it.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from mtc_perception.core.bundle import EngineName, SelfTest
from mtc_perception.core.engine import Network
from mtc_perception.core.self_test import check_well_formed, measure_self_test, run_self_test
from mtc_perception.engines.cpu import cpu_model
from mtc_perception.engines.load import load_engine
from mtc_perception.util.errors import EngineError, UserError
from mtc_perception.util.files import write_text_atomic

TIMEOUT_S = 120.0
MANY_CLASSES = 2**31
"""Labels are not what a trial is about."""
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")
"""Signals that a process brings upon itself. Others come from outside and say nothing of it."""


def run_trial(
    network: Network, engine: EngineName, tolerance: float = 0.05, timeout_s: float = TIMEOUT_S
) -> SelfTest:
    """Load a graph into an engine and run the self-test frame; returns its golden values.

    `tolerance` is recorded with them. Raises `TrialError` if the engine crashes or hangs, or if the
    process is killed, EngineError if it refuses the graph or gives malformed answers.
    """
    arguments = {
        "precision": network.precision,
        "height": network.height,
        "width": network.width,
        "max_detections": network.max_detections,
        "tolerance": tolerance,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(network.model)
        command = [sys.executable, "-m", __name__, engine, str(path), json.dumps(arguments)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            raise TrialError(f"does not finish in {timeout_s:.0f} s", lasting=True) from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        if name in CRASHES:
            raise TrialError(f"crashes ({name})", lasting=True)
        raise TrialError(f"was killed ({name}) in its trial", lasting=False)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else "it does not say why"
    if done.returncode > 0:
        raise EngineError(last)
    return SelfTest.model_validate_json(last)


class TrialError(EngineError):
    """An engine did not survive its trial."""

    def __init__(self, what: str, *, lasting: bool) -> None:
        """`lasting` says whether it would do the same again."""
        super().__init__(what)
        self.lasting = lasting


def ensure_tried(network: Network, engine: EngineName) -> str:
    """See to it that this machine has tried a graph on a CPU engine before it is loaded here.

    Costs nothing where it has: the outcome is kept under the versions of engine and processor and
    the sha256 of the graph. Returns "", or why the outcome could not be kept. Raises EngineError if
    the engine does not survive it.
    """
    try:
        version = metadata.version(engine)
    except metadata.PackageNotFoundError:
        return ""  # loading says what is missing
    about = {
        "engine": f"{engine} {version}",
        "cpu": cpu_model(),
        "sha256": hashlib.sha256(network.model).hexdigest(),
    }
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    folder = trials_folder()
    record = folder / f"{name}.json" if folder else None
    known = _read(record)
    if all(known.get(key) == value for key, value in about.items()):
        if known["outcome"] == "ran":
            return ""
        raise EngineError(f"{known['outcome']}, as tried before; to try again remove {record}")
    outcome: str | None = "ran"
    try:
        run_trial(network, engine)
    except TrialError as error:
        outcome = str(error) if error.lasting else None
        raise
    except EngineError:
        outcome = None  # it will say the same when it is loaded, and without a crash
        raise
    finally:
        problem = _write(record, about | {"outcome": outcome}) if outcome else ""
    return problem


def trials_folder() -> Path | None:
    """Where outcomes are kept: in the user's cache; None for a user without a home."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "mtc_perception" / "trials"
    try:
        return Path.home() / ".cache" / "mtc_perception" / "trials"
    except RuntimeError:
        return None


def _read(record: Path | None) -> dict[str, Any]:
    """A kept outcome; nothing if there is none, or if it cannot be read."""
    with suppress(OSError, ValueError):
        content = json.loads(record.read_text()) if record else None
        if isinstance(content, dict) and isinstance(content.get("outcome"), str):
            return content
    return {}


def _write(record: Path | None, content: dict[str, Any]) -> str:
    """Keep an outcome; says why it could not be."""
    if record is None:
        return "the outcome of its trial is not kept: there is no home folder"
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(record, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        return f"the outcome of its trial is not kept: {error}"
    return ""


def _golden_values(engine: EngineName, graph: bytes, arguments: dict[str, Any]) -> SelfTest:
    tolerance = arguments.pop("tolerance")
    loaded = load_engine(Network(graph, **arguments), engine, threads=1)
    outputs = run_self_test(loaded)
    check_well_formed(outputs, MANY_CLASSES)
    golden = measure_self_test(outputs, tolerance)
    loaded.close()
    return golden


def _main() -> None:
    engine, path, arguments = sys.argv[1:]
    try:
        golden = _golden_values(engine, Path(path).read_bytes(), json.loads(arguments))  # type: ignore[arg-type]
    except UserError as error:
        raise SystemExit(str(error)) from None
    print(golden.model_dump_json())


if __name__ == "__main__":
    _main()

"""Trials: a fresh graph is first compiled and run in a process of its own.

Runtimes have been seen to crash on quantised graphs instead of refusing them; then the process
that dies is not the one with hours of work in it.
"""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mtc_perception.core.bundle import SelfTest
from mtc_perception.core.engine import Network
from mtc_perception.core.self_test import check_self_test, measure_self_test, run_self_test
from mtc_perception.engines.open import load_engine
from mtc_perception.util.errors import UserError

TIMEOUT_S = 900.0
MANY_CLASSES = 2**31
"""Labels are not what a trial is about."""


def trial(network: Network, engine: str, variant: str, tolerance: float) -> SelfTest:
    """Load a graph into an engine and run the self-test frame; returns its golden values.

    `tolerance` is recorded with them. Raises UserError naming engine and variant if the engine
    crashes, hangs, refuses the graph or gives malformed answers.
    """
    arguments = {
        "precision": network.precision,
        "height": network.height,
        "width": network.width,
        "max_detections": network.max_detections,
        "tolerance": tolerance,
    }
    advice = f"take {variant} out of compress.quantise.variants or try another version of {engine}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(network.model)
        command = [sys.executable, "-m", __name__, engine, str(path), json.dumps(arguments)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{engine} does not finish with the {variant} graph in {TIMEOUT_S:.0f} s: {advice}"
            ) from None
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else ""
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise UserError(f"{engine} crashes ({name}) on the {variant} graph: {advice}")
    if done.returncode > 0:
        raise UserError(f"{engine} does not run the {variant} graph ({last}): {advice}")
    return SelfTest.model_validate_json(last)


def _golden_values(engine: str, graph: bytes, arguments: dict[str, Any]) -> SelfTest:
    tolerance = arguments.pop("tolerance")
    loaded = load_engine(Network(graph, **arguments), engine, threads=1)
    outputs = run_self_test(loaded)
    golden = measure_self_test(outputs, tolerance)
    check_self_test(outputs, golden, MANY_CLASSES)
    loaded.close()
    return golden


def _main() -> None:
    engine, path, arguments = sys.argv[1:]
    try:
        golden = _golden_values(engine, Path(path).read_bytes(), json.loads(arguments))
    except UserError as error:
        raise SystemExit(str(error)) from None
    print(golden.model_dump_json())


if __name__ == "__main__":
    _main()

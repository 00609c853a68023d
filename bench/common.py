"""What every measurement shares: timing an engine, images to run on, writing a result."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mtc_perception.bundle import self_test_frame
from mtc_perception.engine import Engine
from mtc_perception.errors import UserError
from mtc_perception.provenance import provenance
from mtc_perception.timing import percentiles

RATE_HZ = 30
WIDTH, HEIGHT = 1280, 720


def time_engine(engine: Engine, runs: int) -> list[float]:
    """Milliseconds of each of `runs` inferences, one after the other, nothing around them."""
    _, height, width, _ = engine.input.shape
    engine.input[0] = self_test_frame(height, width)
    times_ms = []
    for _ in range(runs):
        begin = time.perf_counter()
        engine.start()
        engine.wait()
        times_ms.append((time.perf_counter() - begin) * 1e3)
    return times_ms


def brief(times_ms: list[float]) -> dict[str, float]:
    """Percentiles rounded to what can be told apart."""
    return {name: round(value, 3) for name, value in percentiles(times_ms).items()}


def camera_bag(folder: Path, seconds: int) -> Path:
    """A synthetic drive of 1280x720 at 30 Hz, rendered at the first call."""
    bag = folder / f"synthetic_drive_{seconds}s"
    if not bag.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "offline_compress.cli", "synth", "bag", str(bag)]
        command += ["--seconds", str(seconds), "--fps", str(RATE_HZ)]
        command += ["--size", f"{WIDTH}x{HEIGHT}"]
        if code := subprocess.run(command, check=False).returncode:
            raise UserError(f"making the synthetic drive failed with exit code {code}")
    return bag


def write_result(folder: Path, name: str, content: dict[str, Any]) -> Path:
    """Write `content` with machine, versions, commit and command to `<folder>/<name>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    temporary = folder / f".{name}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(content | provenance(), indent=2) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path

"""The synthetic drive that is played where no recording is given."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from mtc_perception.util.errors import UserError

SYNTHETIC_RATE_HZ, SYNTHETIC_WIDTH, SYNTHETIC_HEIGHT = 30, 1280, 720


def synthetic_bag(folder: Path, seconds: float) -> Path:
    """A drive of 1280x720 at 30 Hz with ground truth, rendered by the first call.

    A process of the offline package makes it; interrupted, nothing is left of it. Raises UserError
    where that package is not installed.
    """
    bag = folder / f"synthetic_drive_{seconds:g}s"
    if bag.exists():
        return bag
    if importlib.util.find_spec("offline_compress") is None:
        raise UserError("the synthetic drive needs offline_compress installed; give --input")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{bag.name}.", dir=folder) as scratch:
        made = Path(scratch) / bag.name
        command = [sys.executable, "-m", "offline_compress.cli", "synth", "bag", str(made)]
        command += ["--seconds", f"{seconds:g}", "--fps", str(SYNTHETIC_RATE_HZ)]
        command += ["--size", f"{SYNTHETIC_WIDTH}x{SYNTHETIC_HEIGHT}"]
        code = _run_group(command)
        if code:
            raise UserError(
                f"making the synthetic drive failed with exit code {code}; give --input"
            )
        os.replace(made, bag)
    return bag


def _run_group(command: list[str]) -> int:
    """The exit code of `command`; it and all its processes end with an exception here."""
    # Out of the terminal's group, so that Ctrl-C reaches this process alone.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise

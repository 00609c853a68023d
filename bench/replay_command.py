"""Runs `mtc-replay evaluate` as its users do, and watches the memory of all its processes."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mtc_perception.replay.records.record import read_frames
from mtc_perception.replay.results.run_result import read_result, stream_folder
from mtc_perception.util.errors import UserError

_SAMPLE_S = 0.1
_STOP_S = 20.0


@dataclass(frozen=True, slots=True)
class Finished:
    """One run of the command."""

    result: dict[str, Any]
    """Content of its `result.json`."""
    wall_s: float
    """From its start to its end, page and all."""
    digests: tuple[str, ...]
    """Of every image's answer at the deployed thresholds, stream after stream; empty without."""


@dataclass(slots=True)
class PeakMemory:
    """The most memory that a process and its children were seen with, as it is called."""

    mib: float = 0.0

    def __call__(self, pid: int) -> None:
        resident_kib = 0
        for process in _tree(pid):
            now_kib, most_kib = resident_memory_kib(_status(process.pid))
            resident_kib += now_kib
            # The system's own maximum: between two samples there may be more.
            self.mib = max(self.mib, most_kib / 1024)
        self.mib = max(self.mib, resident_kib / 1024)


def evaluate(
    *arguments: str | Path, out: Path, watch: Callable[[int], None] | None = None
) -> Finished:
    """Run `mtc-replay evaluate` with these arguments in processes of its own.

    `out` is the folder of the run; only its log, beside it, is there afterwards. `watch` is called
    with its process's number several times a second. Raises UserError where it fails. Leaves no
    process behind, also on KeyboardInterrupt.
    """
    program = shutil.which("mtc-replay")
    if program is None:
        raise UserError("mtc-replay is not on the path: source tools/ros_env.sh first")
    command = [program, "evaluate", *map(str, arguments), "--out", str(out)]
    log = out.with_suffix(".log")
    begin = time.perf_counter()
    with log.open("wb") as file:
        # Out of the terminal's group, so that Ctrl-C reaches this process alone.
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = _wait(process, watch)
        except BaseException:
            _stop(process)
            raise
    wall_s = time.perf_counter() - begin
    if code:
        words = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise UserError(f"mtc-replay ended with exit code {code}: {' '.join(words)}")
    result = read_result(out)
    folders = [stream_folder(out, stream) for stream in result["streams"]]
    digests = tuple(record.digest for folder in folders for record in read_frames(folder))
    shutil.rmtree(out)
    return Finished(result, wall_s, digests)


def resident_memory_kib(status: str) -> tuple[int, int]:
    """Resident memory now and at most so far, of a /proc/PID/status; 0 of what it does not say."""
    values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    now, most = (int(values.get(name, "0").split()[0]) for name in ("VmRSS", "VmHWM"))
    return now, most


def _wait(process: "subprocess.Popen[bytes]", watch: Callable[[int], None] | None) -> int:
    while watch is not None:
        try:
            return process.wait(_SAMPLE_S)
        except subprocess.TimeoutExpired:
            watch(process.pid)
    return process.wait()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """As Ctrl-C does, so that it ends the node that it may have started; harder if need be."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has just ended
        return ""

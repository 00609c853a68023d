"""The perception node as a process of its own, and what it says."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from support.node_rig import PATIENCE_S


class Process:
    """The node's process and what it says."""

    def __init__(self, bundle: Path, node: tuple[str, ...], parameters: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, *node, "--ros-args"),
                *("-p", f"bundle:={bundle}", "-p", "diagnostics_period_s:=0.1"),
                *(word for parameter in parameters for word in ("-p", parameter)),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def said(self, text: str) -> bool:
        return any(text in line for line in list(self.lines))

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; the exit code and everything the process wrote."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=PATIENCE_S)
        self._reader.join()
        return code, "".join(self.lines)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        print("the node said:", *self.lines, sep="\n")  # seen where a test fails


@contextlib.contextmanager
def running(
    bundle: Path,
    node: tuple[str, ...] = ("-m", "mtc_perception.node.node"),
    parameters: tuple[str, ...] = (),
) -> Iterator[Process]:
    """The node's process; `node` is what Python is to run for it, `parameters` are NAME:=VALUE."""
    process = Process(bundle, node, parameters)
    try:
        yield process
    finally:
        process.close()

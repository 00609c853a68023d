"""The node as a process: what is told of one that ends."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from mtc_perception.replay.live.node_process import NodeFailure, NodeProcess, private_ros_domain

pytestmark = pytest.mark.dds


@pytest.mark.parametrize("gone", [False, True], ids=["ended", "gone"])
@pytest.mark.parametrize("reading", ["memory_info", "cpu_times"])
def test_a_node_that_dies_while_it_is_measured_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: str, gone: bool
) -> None:
    with private_ros_domain(), NodeProcess({}, "/dying", tmp_path) as node:
        resident_mib, cpu_s = node.usage()
        assert resident_mib > 0
        assert cpu_s >= 0
        read = getattr(psutil.Process, reading)

        def read_too_late(process: psutil.Process) -> Any:
            os.kill(process.pid, signal.SIGKILL)
            # Not waited for, it is still in the table of processes, all its figures 0.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            if gone:
                with pytest.raises(NodeFailure):
                    node.check()
            return read(process)

        monkeypatch.setattr(psutil.Process, reading, read_too_late)
        with pytest.raises(NodeFailure, match="the node ended with exit code -9"):
            node.usage()

"""The node as a process: what is told of one that ends."""

import os
import signal
import subprocess
import sys
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


ELSEWHERE = {
    "ROS_DISCOVERY_SERVER": "127.0.0.1:11811",
    "ROS_SUPER_CLIENT": "true",
    "ROS_STATIC_PEERS": "192.0.2.1",
    "ROS_SECURITY_ENABLE": "true",
}


def test_a_private_domain_needs_neither_a_home_nor_what_leads_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_bundle: Path
) -> None:
    for name in ("HOME", "ROS_HOME", "ROS_LOG_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ELSEWHERE.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with private_ros_domain():
        assert not ELSEWHERE.keys() & os.environ.keys()
        parameters = {"bundle": str(toy_bundle), "engine": "onnxruntime", "threads": 1}
        with NodeProcess(parameters, "/alone", tmp_path) as node:
            node.configure(lambda: None)
    assert dict(os.environ) == before


def test_an_environment_in_which_ros_does_not_start_is_one_line() -> None:
    script = (
        "from mtc_perception.replay.live.node_process import ros_context\n"
        "from mtc_perception.util.errors import ReplayError\n"
        "try:\n    ros_context().__enter__()\nexcept ReplayError as error:\n    print(error)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "ROS_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"ROS_LOG_DIR": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("ROS cannot start here: failed to initialize logging")
    assert done.stdout.count("\n") == 1

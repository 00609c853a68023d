"""The node's process among others that talk with it over real DDS, some of which are killed."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from support.accounts import check_accounts
from support.neighbours import CAMERA_HZ, Neighbour, neighbours
from support.node_process import running
from support.node_rig import PATIENCE_S, Client

pytestmark = [pytest.mark.dds, pytest.mark.slow]

Start = Callable[[str], Neighbour]


@pytest.fixture
def start() -> Iterator[Start]:
    with neighbours() as start:
        yield start


def hear(consumer: Neighbour, messages: int = 10) -> None:
    """Wait for so many more masks at the consumer."""
    wanted, end_s = consumer.count + messages, time.monotonic() + PATIENCE_S
    while consumer.count < wanted:
        assert time.monotonic() < end_s, "no masks at the consumer"
        time.sleep(0.02)


@pytest.mark.fault(
    area="DDS",
    row="the camera's or a consumer's process is killed (-9) and a new one of the same name comes",
    answer="The node answers the images of the new camera; the new consumer gets every answer.",
    diagnostics="The camera is ERROR: lost, then OK again; for a consumer nothing.",
)
def test_neighbours_that_are_killed_and_return(
    client: Client, toy_bundle: Path, start: Start
) -> None:
    with running(toy_bundle, parameters=("autostart:=true",)):
        camera, consumer = start("camera"), start("consumer")
        hear(consumer)
        camera.kill()
        client.wait_for_value("front", "input", "lost")
        camera = start("camera")
        client.wait_for_value("front", "input", "ok")
        hear(consumer)
        consumer.kill()
        consumer = start("consumer")
        hear(consumer)
        assert client.values("front")["input"] == "ok"
        check_accounts(client.values("front"))


@pytest.mark.fault(
    area="DDS",
    row="a reliable consumer is so slow that it takes nothing any more (SIGSTOP)",
    answer="Images are answered at their full rate, others get them; the node's memory stays.",
    diagnostics="Nothing.",
)
def test_a_stopped_consumer_holds_nobody_up(client: Client, toy_bundle: Path, start: Start) -> None:
    with running(toy_bundle, parameters=("autostart:=true",)) as node:
        start("camera")
        stopped, other = start("consumer"), start("consumer")
        for consumer in (stopped, other):
            hear(consumer)
        stopped.process.send_signal(signal.SIGSTOP)
        memory = psutil.Process(node.process.pid).memory_info
        client.spin_for(1.0)
        begin = check_accounts(client.values("front"))
        begin_s, begin_bytes, heard = time.monotonic(), memory().rss, other.count
        client.spin_for(3.0)
        end = check_accounts(client.values("front"))
        seconds = time.monotonic() - begin_s
        answered = end.processed - begin.processed
        assert answered >= 0.8 * CAMERA_HZ * seconds
        assert other.count - heard >= 0.9 * answered
        assert memory().rss < 1.05 * begin_bytes
        stopped.process.send_signal(signal.SIGCONT)
        hear(stopped)


@contextlib.contextmanager
def discovery_server(port: int) -> Iterator[None]:
    """A discovery server."""
    command = ["fastdds", "discovery", "-i", "0", "-l", "127.0.0.1", "-p", str(port)]
    # It is a script that waits for the program that it starts.
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)


@pytest.fixture
def discovery_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Processes of this test find each other through a discovery server at this port alone.

    None of them is this one: Fast DDS does not forget it.
    """
    if shutil.which("fastdds") is None:
        pytest.skip("there is no `fastdds discovery` here")
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    monkeypatch.setenv("ROS_DISCOVERY_SERVER", f"127.0.0.1:{port}")
    return port


@pytest.mark.fault(
    area="DDS",
    row="the discovery server ends while the node runs (Fast DDS, ROS_DISCOVERY_SERVER)",
    answer="Who has met goes on; who comes later is met once the server is there again.",
    diagnostics="Nothing.",
)
def test_a_discovery_server_that_is_lost(
    discovery_port: int, toy_bundle: Path, start: Start
) -> None:
    with running(toy_bundle, parameters=("autostart:=true",)):
        with discovery_server(discovery_port):
            start("camera")
            consumer = start("consumer")
            hear(consumer)
        hear(consumer, 30)
        late = start("consumer")
        hear(consumer, 60)
        assert late.count == 0
        with discovery_server(discovery_port):
            hear(late)
            hear(consumer)

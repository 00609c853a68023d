"""The perception node as a process of its own, driven through its lifecycle services."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import rclpy
import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor

from mtc_perception.node.launch_arguments import fastdds_environment
from mtc_perception.util.errors import ReplayError
from mtc_perception.util.interrupts import interrupts_held
from mtc_perception.util.ros_domain import ClaimedDomain

NODE_NAME = "perception"
START_TIMEOUT_S = 30.0
TRANSITION_TIMEOUT_S = 180.0
"""Engines may have to compile the network first."""
_STOP_S = 8.0
_LOG_LINES = 12

# What would lead processes of a private domain elsewhere than to each other: servers, peers, files
# that name them, and keys for nodes of other names.
_OTHER_DISCOVERY = (
    "ROS_DISCOVERY_SERVER",
    "ROS_SUPER_CLIENT",
    "ROS_STATIC_PEERS",
    "ROS_EASY_MODE",
    "ROS_LOCALHOST_ONLY",
    "ROS_SECURITY_ENABLE",
    "FASTDDS_ENVIRONMENT_FILE",
)

Tick = Callable[[], None]


class NodeFailure(ReplayError):
    """The node ended or refused; the message ends with its last log lines."""


@contextmanager
def private_ros_domain() -> Iterator[None]:
    """A ROS domain of this process and its children, on this machine only.

    What plays here must not reach a vehicle's nodes, nor their images the node under test.
    """
    domain = ClaimedDomain()
    changes: dict[str, str | None] = dict.fromkeys(_OTHER_DISCOVERY)
    changes["ROS_DOMAIN_ID"] = str(domain.number)
    if os.environ.get("ROS_DISTRO") == "humble":
        changes["ROS_LOCALHOST_ONLY"] = "1"
    else:
        changes["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    changes |= fastdds_environment(_share() / "config" / "fastdds.xml", os.environ)
    with tempfile.TemporaryDirectory(prefix="mtc_replay_") as logs:
        if not any(os.environ.get(name) for name in ("ROS_LOG_DIR", "ROS_HOME", "HOME")):
            changes["ROS_LOG_DIR"] = logs  # without any of them ROS does not start
        before = {name: os.environ.get(name) for name in changes}
        _set_environment(changes)
        try:
            yield
        finally:
            _set_environment(before)
            domain.release()


def _set_environment(values: Mapping[str, str | None]) -> None:
    """Set these variables; remove those without a value."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def ros_context() -> Iterator[rclpy.Context]:
    """A context of its own. Raises ReplayError where ROS cannot start in this environment."""
    context = rclpy.Context()
    try:
        rclpy.init(context=context)
    except RuntimeError as error:  # what every error of rcl derives from
        raise ReplayError(f"ROS cannot start here: {' '.join(str(error).split())}") from None
    try:
        yield context
    finally:
        context.try_shutdown()


class NodeProcess:
    """Runs `perception_node`; use as a context manager, which ends it in every case."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        namespace: str,
        folder: Path,
        module: str = "mtc_perception.node.node",
    ) -> None:
        """Start it. `folder` gets its parameter file and its log, `node.log`; `module` is the
        program, of which the node is the main part."""
        self.full_name = f"{namespace}/{NODE_NAME}"
        self._log = folder / "node.log"
        file = folder / "parameters.yaml"
        content = {self.full_name: {"ros__parameters": dict(parameters)}}
        file.write_text(yaml.safe_dump(content))
        arguments = ["--ros-args", "--params-file", str(file), "-r", f"__ns:={namespace}"]
        with self._log.open("wb") as log, interrupts_held():
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                # Out of the terminal's group: Ctrl-C is passed on once, by `stop`.
                start_new_session=True,
            )
        self._usage = psutil.Process(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> "NodeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def configure(self, tick: Tick) -> None:
        """`tick` is called several times a second. Raises NodeFailure."""
        self._change("configure", Transition.TRANSITION_CONFIGURE, tick)

    def activate(self, tick: Tick) -> None:
        """Raises NodeFailure."""
        self._change("activate", Transition.TRANSITION_ACTIVATE, tick)

    def deactivate(self, tick: Tick) -> None:
        """Makes the node publish its final counters. Raises NodeFailure."""
        self._change("deactivate", Transition.TRANSITION_DEACTIVATE, tick)

    def cleanup(self, tick: Tick) -> None:
        """Raises NodeFailure."""
        self._change("cleanup", Transition.TRANSITION_CLEANUP, tick)

    def check(self) -> None:
        """Raises NodeFailure if the process has ended."""
        if (code := self._process.poll()) is not None:
            raise NodeFailure(f"the node ended with exit code {code}{self._last_words()}")

    def usage(self) -> tuple[float, float]:
        """Resident memory in MiB and processor time so far in s. Raises NodeFailure if it ended."""
        try:
            memory, times = self._usage.memory_info(), self._usage.cpu_times()
        except psutil.NoSuchProcess:
            self._process.wait()
        # Afterwards: of a process that ended a moment ago, all of this reads as 0.
        self.check()
        return float(memory.rss) / 2**20, float(times.user + times.system)

    def held(self) -> tuple[int, int]:
        """Open handles and threads. Raises NodeFailure if it ended."""
        try:
            handles, threads = self._usage.num_fds(), self._usage.num_threads()
        except psutil.NoSuchProcess:
            self._process.wait()
        self.check()
        return handles, threads

    def stop(self) -> None:
        """Ctrl-C, and harder if that does not help."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)

    def _change(self, name: str, transition: int, tick: Tick) -> None:
        with ros_context() as context:
            node = rclpy.create_node("replay_control", context=context)
            executor = SingleThreadedExecutor(context=context)
            executor.add_node(node)
            client: Any = node.create_client(ChangeState, f"{self.full_name}/change_state")

            def wait(happened: Callable[[], bool], timeout_s: float) -> None:
                end = time.monotonic() + timeout_s
                while not happened():
                    self.check()
                    if time.monotonic() > end:
                        words = self._last_words()
                        raise NodeFailure(f"no answer to {name} within {timeout_s:g} s{words}")
                    tick()
                    executor.spin_once(timeout_sec=0.1)

            wait(client.service_is_ready, START_TIMEOUT_S)
            request = ChangeState.Request(transition=Transition(id=transition))
            future = client.call_async(request)
            wait(future.done, TRANSITION_TIMEOUT_S)
            answer: Any = future.result()
            if not answer.success:
                raise NodeFailure(f"the node refused to {name}{self._last_words()}")

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "; its last words:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""


def _share() -> Path:
    """Where the package's `config` is: installed, or in the checkout."""
    try:
        return Path(get_package_share_directory("mtc_perception"))
    except PackageNotFoundError:
        return Path(__file__).resolve().parents[3]

"""The launch file: its arguments anywhere, and real runs where `ros2 launch` is installed."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mtc_perception.node.launch_arguments import (
    LaunchArgumentError,
    check_names,
    fastdds_environment,
    node_parameters,
)
from mtc_perception.node.parameters import node_specs
from support.workspace import ROOT, build_workspace, sourced

DEFAULTS = {
    **{name: spec.default for name, spec in node_specs().items() if name != "cameras"},
    "use_sim_time": False,
}
NOTHING = dict.fromkeys(("cameras", "topics", "transport", *DEFAULTS), "")


def test_arguments_that_are_not_given_set_no_parameter() -> None:
    assert node_parameters(NOTHING, DEFAULTS, own_params_file=False) == {}
    assert node_parameters(NOTHING, DEFAULTS, own_params_file=True) == {}


def test_arguments_become_parameters_of_each_camera() -> None:
    given = NOTHING | {
        "bundle": "b.mtc",
        "cameras": "front, left",
        "topics": "/a/image,/b/image",
        "transport": "compressed",
        "lane_threshold": "0.4",
        "score_threshold": "1",
        "threads": "2",
        "use_sim_time": "True",
        "load_engine": "false",
    }
    assert node_parameters(given, DEFAULTS, own_params_file=True) == {
        "bundle": "b.mtc",
        "lane_threshold": 0.4,
        "score_threshold": 1.0,
        "threads": 2,
        "use_sim_time": True,
        "load_engine": False,
        "cameras": ["front", "left"],
        "front.image_topic": "/a/image",
        "left.image_topic": "/b/image",
        "front.transport": "compressed",
        "left.transport": "compressed",
    }


def test_a_topic_alone_is_that_of_the_default_camera() -> None:
    given = NOTHING | {"topics": "/camera/image_raw"}
    assert node_parameters(given, DEFAULTS, own_params_file=False) == {
        "front.image_topic": "/camera/image_raw"
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"topics": "/a,/b"}, r"2 topics for 1 cameras \(front\)"),
        ({"cameras": "a,b", "topics": "/a"}, r"1 topics for 2 cameras \(a, b\)"),
        ({"score_threshold": "high"}, r"score_threshold is 'high': it must be a number"),
        ({"threads": "1.5"}, r"threads is '1.5': it must be a whole number"),
        ({"use_sim_time": "1"}, r"use_sim_time is '1': it must be true or false"),
    ],
)
def test_bad_arguments_are_named(given: dict[str, str], message: str) -> None:
    with pytest.raises(LaunchArgumentError, match=message):
        node_parameters(NOTHING | given, DEFAULTS, own_params_file=False)


@pytest.mark.parametrize("given", [{"topics": "/a"}, {"transport": "raw"}])
def test_camera_arguments_need_names_next_to_an_own_params_file(given: dict[str, str]) -> None:
    with pytest.raises(LaunchArgumentError, match="need cameras"):
        node_parameters(NOTHING | given, DEFAULTS, own_params_file=True)


def test_an_argument_that_does_not_exist_is_refused() -> None:
    file, known = "perception.launch.py", ["topics", "use_sim_time"]
    command = ["/opt/ros/bin/ros2", "launch", "mtc_perception", file]
    check_names([*command, "topics:=/a", "use_sim_time:=true", "--noninteractive"], file, known)
    with pytest.raises(
        LaunchArgumentError, match="no launch argument image_topic; there are: topics, use_sim_time"
    ):
        check_names([*command, "topics:=/a", "image_topic:=/foo"], file, known)
    with pytest.raises(LaunchArgumentError, match="no launch argument Topics"):
        check_names(["ros2", "launch", f"/ws/launch/{file}", "Topics:=/a"], file, known)
    # Of a file that includes this one, the arguments are its own.
    check_names(["ros2", "launch", "car", "bringup.launch.py", "map:=town"], file, known)


# What follows runs `ros2 launch` on an installed copy of the package.


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"ROS_DISTRO": "humble"}, "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ({"ROS_DISTRO": "kilted"}, "FASTDDS_DEFAULT_PROFILES_FILE"),
        ({}, "FASTDDS_DEFAULT_PROFILES_FILE"),
    ],
)
def test_the_transport_profile_gives_way_to_the_users(
    environment: dict[str, str], variable: str, tmp_path: Path
) -> None:
    profile = tmp_path / "fastdds.xml"
    assert fastdds_environment(profile, environment) == {}
    profile.touch()
    assert fastdds_environment(profile, environment) == {variable: str(profile)}
    for own in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        assert fastdds_environment(profile, environment | {own: "mine.xml"}) == {}


needs_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None or shutil.which("ros2") is None,
    reason="ros2 launch is not installed (it has no wheel)",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("launch")
    build_workspace(folder)
    env = sourced(folder)
    # The profile is the launch file's business.
    env.pop("FASTDDS_DEFAULT_PROFILES_FILE", None)
    env.pop("FASTRTPS_DEFAULT_PROFILES_FILE", None)
    return env | {"PYTHONUNBUFFERED": "1", "ROS_LOG_DIR": str(folder / "ros_log")}


class Launched:
    """A running `ros2 launch mtc_perception perception.launch.py`, its output in a file."""

    def __init__(self, environment: dict[str, str], output: Path, *arguments: str) -> None:
        self._output = output
        with output.open("w") as file:
            self._process = subprocess.Popen(
                ["ros2", "launch", "mtc_perception", "perception.launch.py", *arguments],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=output.parent,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self._output.read_text()

    def wait_for(self, pattern: str, timeout_s: float = 30) -> re.Match[str]:
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.text}"
            assert self._process.poll() is None, f"launch ended:\n{self.text}"
            time.sleep(0.05)
        return found

    def wait_until_it_ends(self, timeout_s: float = 30) -> None:
        self._process.wait(timeout_s)

    def interrupt(self, timeout_s: float = 15) -> int:
        """Ctrl-C, as a terminal sends it: to the whole process group; launch's exit code."""
        os.killpg(self._process.pid, signal.SIGINT)
        return self._process.wait(timeout_s)

    def end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@contextmanager
def launched(environment: dict[str, str], folder: Path, *arguments: str) -> Iterator[Launched]:
    run = Launched(environment, folder / "output.txt", *arguments)
    try:
        yield run
    finally:
        run.end()


@needs_launch
def test_show_args_lists_every_argument(environment: dict[str, str]) -> None:
    shown = subprocess.run(
        ["ros2", "launch", "mtc_perception", "perception.launch.py", "--show-args"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = re.findall(r"^ {4}'(\w+)':", shown, re.MULTILINE)
    assert set(names) == {*NOTHING, "params_file", "namespace", "log_level"}


@needs_launch
@pytest.mark.dds
def test_launch_activates_and_ends_cleanly(environment: dict[str, str], tmp_path: Path) -> None:
    with launched(
        environment, tmp_path, "namespace:=car", "topics:=/cam/image", "log_level:=debug"
    ) as run:
        pid = int(run.wait_for(r"process started with pid \[(\d+)\]")[1])
        state, topics, parameters = observe("/car/perception", "active")
        assert state == "active"
        assert "/cam/image" in topics
        assert "/car/detections" in topics
        assert parameters["front.image_topic"] == "/cam/image"
        assert run.interrupt() == 0
        assert "process has finished cleanly" in run.text
        assert "Traceback" not in run.text
        assert not Path(f"/proc/{pid}").exists()


@needs_launch
@pytest.mark.dds
def test_multi_camera_file_without_autostart(environment: dict[str, str], tmp_path: Path) -> None:
    file = ROOT / "config" / "multi_camera.yaml"
    with launched(environment, tmp_path, f"params_file:={file}", "autostart:=false") as run:
        run.wait_for("process started")
        state, _, parameters = observe("/perception", "unconfigured")
        assert state == "unconfigured"
        assert parameters["cameras"] == ["front", "left", "right"]
        assert parameters["left.transport"] == "compressed"
        assert run.interrupt() == 0


@needs_launch
@pytest.mark.dds
def test_a_missing_bundle_is_named_and_leaves_the_node_unconfigured(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with launched(environment, tmp_path, "bundle:=/nowhere.mtc") as run:
        run.wait_for(r"/nowhere\.mtc")
        assert observe("/perception", "unconfigured")[0] == "unconfigured"
        assert run.interrupt() == 0


@needs_launch
def test_a_node_that_dies_ends_launch(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters:\n    score_threshold: 7.0\n")
    with launched(environment, tmp_path, f"params_file:={file}") as run:
        run.wait_until_it_ends()
        assert "score_threshold" in run.text
        assert "exit code 2" in run.text


@needs_launch
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("topics:=/a,/b", "2 topics for 1 cameras"),
        ("params_file:=/nowhere.yaml", "params_file /nowhere.yaml does not exist"),
        ("engine:=abacus", "abacus"),
        ("image_topic:=/foo", "there is no launch argument image_topic"),
    ],
)
def test_bad_arguments_end_launch(environment: dict[str, str], argument: str, message: str) -> None:
    done = subprocess.run(
        ["ros2", "launch", "mtc_perception", "perception.launch.py", argument],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert message in done.stdout + done.stderr


def observe(node: str, wanted_state: str) -> tuple[str, set[str], dict[str, object]]:
    """State (waits for the wanted one), topics and parameters of a node, seen from outside."""
    import rclpy
    from lifecycle_msgs.srv import GetState
    from rcl_interfaces.srv import GetParameters, ListParameters
    from rclpy.parameter import parameter_value_to_python

    context = rclpy.Context()
    rclpy.init(context=context)
    observer = rclpy.create_node("observer", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(observer)

    def call(kind: type, name: str, request: object) -> object:
        client = observer.create_client(kind, f"{node}/{name}")
        assert client.wait_for_service(20)
        future = client.call_async(request)
        executor.spin_until_future_complete(future, 10)
        return future.result()

    try:
        deadline = time.monotonic() + 20
        state = ""
        while state != wanted_state and time.monotonic() < deadline:
            state = call(GetState, "get_state", GetState.Request()).current_state.label
            time.sleep(0.1)
        topics = {name for name, _ in observer.get_topic_names_and_types()}
        names = call(ListParameters, "list_parameters", ListParameters.Request()).result.names
        values = call(GetParameters, "get_parameters", GetParameters.Request(names=names)).values
        return state, topics, dict(zip(names, map(parameter_value_to_python, values), strict=True))
    finally:
        executor.shutdown()
        observer.destroy_node()
        rclpy.try_shutdown(context=context)

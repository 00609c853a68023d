"""Parameters over real services: descriptors, live changes, refusals with their reason."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rclpy
from rcl_interfaces.srv import DescribeParameters
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from vision_msgs.msg import Detection2DArray

from mtc_perception.node.node import PerceptionNode
from support.node_rig import image_message, solid

pytestmark = pytest.mark.dds


@pytest.fixture
def rig(start_node):
    return start_node()


def test_every_parameter_is_described_with_its_limits(rig):
    client = rig.create_client(DescribeParameters, "/perception/describe_parameters")
    names = ["score_threshold", "threads", "engine", "max_frame_age_ms", "front.image_topic"]
    answer = rig.call(client, DescribeParameters.Request(names=names))
    score, threads, engine, age, topic = answer.descriptors
    assert all(descriptor.description for descriptor in answer.descriptors)
    assert score.floating_point_range[0].to_value == 1.0
    assert threads.integer_range[0].to_value == 256
    assert "'openvino'" in engine.additional_constraints
    assert "only while unconfigured" in engine.additional_constraints
    assert age.additional_constraints == ""
    assert not topic.read_only


def test_thresholds_and_limits_change_while_running(rig):
    rig.run()
    results = rig.collect(Detection2DArray, "detections")
    publish = rig.camera("image_raw")

    def count():
        # Scores are 0.6, 0.3, 0.2, 0.15, 0.12.
        message = image_message(solid(255, 204, 0), "rgb8", rig)
        return len(rig.perceive(publish, message, results).detections)

    assert count() == 3
    assert rig.set(score_threshold=0.14) == ""
    assert count() == 4
    assert rig.set(max_detections=1) == ""
    assert count() == 1
    assert rig.set(score_threshold=0.7, max_detections=0) == ""
    assert count() == 0
    assert rig.set(score_threshold=-1.0) == ""
    assert count() == 3
    assert rig.values("engine")["score_threshold"] == "0.200"


def test_a_live_threshold_reaches_the_latched_label_info_and_diagnostics(rig):
    rig.run()
    assert rig.set(score_threshold=0.5, lane_threshold=0.25) == ""
    values = rig.values("engine")
    assert (values["score_threshold"], values["lane_threshold"]) == ("0.500", "0.250")
    assert values["drivable_threshold"] == "0.500"


@pytest.mark.fault(
    area="lifecycle",
    row="a parameter is set to nonsense",
    answer="Refused with the reason; nothing changes.",
    diagnostics="No change.",
)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"score_threshold": 1.5}, "score_threshold"),
        ({"score_threshold": -0.5}, "must be in 0..1, or -1"),
        ({"max_frame_age_ms": -1.0}, "max_frame_age_ms"),
        ({"score_threshold": "high"}, "Wrong parameter type"),
        ({"engine": "magic"}, "must be one of 'auto', 'tensorrt'"),
        ({"cameras": ["a", "a"]}, "a name twice"),
        ({"cameras": ["front camera"]}, "letters, digits and _"),
        ({"front__image_topic": ""}, "not a topic name"),
        ({"front__image_topic": "front camera"}, "not a topic name"),
    ],
)
def test_nonsense_is_refused_with_the_reason(rig, change, reason):
    assert reason in rig.set(**change)


def test_what_needs_a_restart_is_refused_while_configured(rig, toy_bundle):
    assert rig.configure()
    for change in ({"engine": "onnxruntime"}, {"bundle": "x"}, {"front__transport": "compressed"}):
        assert "only while the node is unconfigured" in rig.set(**change)
    assert rig.cleanup()
    assert rig.set(engine="onnxruntime") == ""
    assert rig.configure()
    assert rig.values("engine")["engine"] == "onnxruntime"


def test_a_refused_change_changes_nothing(rig):
    rig.run()
    assert rig.set(score_threshold=0.9, engine="onnxruntime") != ""
    assert rig.values("engine")["score_threshold"] == "0.200"


def test_cameras_may_be_added_while_unconfigured(rig):
    assert rig.set(cameras=["left", "right"]) == ""
    rig.run()
    assert rig.values("left")["topic"] == "/left/image_raw"
    assert rig.values("right")["topic"] == "/right/image_raw"
    assert rig.count_publishers("left/detections") == 1


@pytest.mark.fault(
    area="lifecycle",
    row="the node is started with an unusable parameter",
    answer="One line, exit code 2.",
    diagnostics="The line names the parameter and what it may be.",
)
@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("score_threshold:=7.0", "score_threshold"),
        ("engine:=magic", "must be one of"),
        ("trusted_keys:=':'", "trusted_keys is ':', which names no path"),
        ("bundle_folders:=': '", "bundle_folders is ': ', which names no path"),
        (":=3", "parameter override"),
    ],
)
def test_an_unusable_override_is_one_line_and_exit_code_2(override, reason):
    result = subprocess.run(
        [sys.executable, "-m", "mtc_perception.node.node", "--ros-args", "-p", override],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 2
    # rcl writes a line of its own before, for what it cannot even parse.
    *_, line = result.stderr.strip().splitlines()
    assert "Traceback" not in result.stderr
    assert line.startswith("error: ")
    assert reason in line


def test_a_misspelt_override_is_warned_about(start_node, capfd):
    rig = start_node(scor_threshold=0.5)
    assert rig.configure()
    assert "there is no parameter scor_threshold" in capfd.readouterr().err


def test_without_ros_the_node_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "rclpy.py").write_text("raise ModuleNotFoundError('no', name='rclpy')\n")
    done = subprocess.run(
        [sys.executable, "-c", "import mtc_perception.node as n; raise SystemExit(n.main())"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ['PYTHONPATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: rclpy is missing: source a ROS 2 installation")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "usage: perception_node [--ros-args -p NAME:=VALUE"),
        (["-h", "--ros-args", "-p", "autostart:=true"], 0, "usage: perception_node"),
        (["--autostart"], 2, "error: what --autostart means is not known: parameters are given as"),
    ],
)
def test_what_is_not_for_ros_starts_no_node(arguments: list[str], code: int, said: str) -> None:
    program = "import mtc_perception.node as n; raise SystemExit(n.main())"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code
    assert (done.stderr if code else done.stdout).startswith(said)


@pytest.mark.fault(
    area="lifecycle",
    row="a threshold is set so high that nothing can be found",
    answer="It is taken: nobody else knows what it is for.",
    diagnostics="The engine is WARN and names the threshold.",
)
def test_thresholds_that_blind_the_node_are_warned_of(rig):
    assert rig.configure()
    assert rig.set(score_threshold=1.0, lane_threshold=0.99) == ""
    rig.wait_for_value("engine", "score_threshold", "1.000")
    status = rig.diagnostics["engine"]
    assert status.level == b"\x01"
    assert status.message == (
        "score_threshold is 1: hardly any object can be found; "
        "lane_threshold is 0.99: hardly any lane paint can be found"
    )
    assert rig.set(score_threshold=0.98, lane_threshold=-1.0) == ""
    rig.wait_for_value("engine", "score_threshold", "0.980")
    assert rig.diagnostics["engine"].level == b"\x00"


@pytest.mark.fault(
    area="DDS",
    row="two nodes have the same name",
    answer="Both go on: neither knows which one is meant.",
    diagnostics="The engine is WARN and names the node; the log, too.",
)
def test_a_namesake_is_warned_of(rig, capfd):
    assert rig.configure()
    context = Context()
    rclpy.init(context=context)
    other = Node("perception", context=context)
    words = "1 more node(s) of the name /perception: rename one"
    rig.wait_for(lambda: rig.diagnostics["engine"].message == words, "the warning")
    assert rig.diagnostics["engine"].level == b"\x01"
    other.destroy_node()
    context.try_shutdown()
    rig.wait_for(lambda: rig.diagnostics["engine"].level == b"\x00", "the end of it")
    assert words in capfd.readouterr().err


def listening(*rules: str, **parameters: object) -> dict[str, tuple[str, str]]:
    """By camera, the topic that a node with these remapping rules names, and the one it hears."""
    context = Context()
    words = ["--ros-args", *(word for rule in rules for word in ("-r", rule))]
    rclpy.init(args=words, context=context)
    try:
        overrides = [
            Parameter(name.replace("__", "."), value=value)
            for name, value in ({"cameras": ["front", "rear"]} | parameters).items()
        ]
        node = PerceptionNode(context=context, parameter_overrides=overrides)
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        found = {
            camera.name: (camera.topic, camera._subscription.topic_name)
            for camera in node._configured.cameras
        }
        node.close()
        node.destroy_node()
        # rclpy's lifecycle services live on until their node is collected.
        del node
        gc.collect()
        return found
    finally:
        context.try_shutdown()


FRONT, REAR = "/front/image_raw", "/rear/image_raw"
SWAPPED = ("front/image_raw:=/rear/image_raw", "rear/image_raw:=/front/image_raw")


@pytest.mark.parametrize(
    ("rules", "transport", "front", "rear"),
    [
        ((), "raw", FRONT, REAR),
        (
            ("front/image_raw:=/rear/image_raw", "rear/image_raw:=/front/image_raw"),
            "raw",
            REAR,
            FRONT,
        ),
        (
            SWAPPED,
            "compressed",
            f"{REAR}/compressed",
            f"{FRONT}/compressed",
        ),
        (
            (
                *SWAPPED,
                "front/image_raw/compressed:=/rear/image_raw/compressed",
                "rear/image_raw/compressed:=/front/image_raw/compressed",
            ),
            "compressed",
            f"{REAR}/compressed",
            f"{FRONT}/compressed",
        ),
        (("front/image_raw:=a", "/a:=/b", "/b:=/c"), "raw", "/a", REAR),
        (("front/image_raw/compressed:=/a",), "compressed", "/a", f"{REAR}/compressed"),
        (("__ns:=/car",), "raw", f"/car{FRONT}", f"/car{REAR}"),
        (
            ("__ns:=/car", "front/image_raw:=/x", "/car/rear/image_raw:=/y"),
            "compressed",
            "/x/compressed",
            "/y/compressed",
        ),
    ],
)
def test_each_remapping_rule_counts_once(
    toy_bundle: Path, rules: tuple[str, ...], transport: str, front: str, rear: str
) -> None:
    parameters = {"front__transport": transport, "rear__transport": transport}
    found = listening(*rules, bundle=str(toy_bundle), threads=1, **parameters)
    assert found == {"front": (front, front), "rear": (rear, rear)}


@pytest.mark.fault(
    area="lifecycle",
    row="a parameter file or a command line has whole numbers, as 1, for parameters such as 1.0",
    answer="They are taken as the numbers that they are.",
    diagnostics="Nothing.",
)
@pytest.mark.parametrize("where", ["file", "command line"])
def test_whole_numbers_are_numbers_in_a_file_and_on_the_command_line(
    tmp_path: Path, where: str
) -> None:
    context = Context()
    values = {"score_threshold": 1, "max_frame_age_ms": 100, "diagnostics_period_s": 2}
    words = [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
    if where == "file":
        lines = [f"    {name}: {value}" for name, value in values.items()]
        file = tmp_path / "parameters.yaml"
        file.write_text("\n".join(["/**:", "  ros__parameters:", *lines]) + "\n")
        words = ["--params-file", str(file)]
    rclpy.init(args=["--ros-args", *words], context=context)
    try:
        node = PerceptionNode(context=context)
        for name, value in values.items():
            assert node.get_parameter(name).value == float(value)
            assert isinstance(node.get_parameter(name).value, float)
        node.close()
        node.destroy_node()
        del node
        gc.collect()
    finally:
        context.try_shutdown()

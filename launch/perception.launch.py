"""Start the perception node and, with autostart, take it to `active`.

    ros2 launch mtc_perception perception.launch.py topics:=/camera/image_raw
    ros2 launch mtc_perception perception.launch.py --show-args

Arguments that are not given leave the value of `params_file`; arguments that are given win over it.
Runs on Humble, Jazzy and Kilted: `LifecycleNode(autostart=...)` is not on all of them, so the
transitions are made by event handlers.
"""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

SHARE = Path(get_package_share_directory("mtc_perception"))
DEFAULT_PARAMS = SHARE / "config" / "perception.yaml"
THRESHOLDS = ("score_threshold", "drivable_threshold", "lane_threshold")

ARGUMENTS = (
    DeclareLaunchArgument(
        "params_file",
        default_value=str(DEFAULT_PARAMS),
        description="YAML file with the node's parameters",
    ),
    DeclareLaunchArgument(
        "bundle", default_value="", description="path of the .mtc bundle; default: the shipped one"
    ),
    DeclareLaunchArgument(
        "engine",
        default_value="",
        choices=["", "auto", "tensorrt", "openvino", "onnxruntime"],
        description="inference runtime",
    ),
    DeclareLaunchArgument(
        "cameras", default_value="", description="camera names, comma-separated: front,left"
    ),
    DeclareLaunchArgument(
        "topics",
        default_value="",
        description="image topics, comma-separated, one for each camera, without /compressed",
    ),
    DeclareLaunchArgument(
        "transport",
        default_value="",
        choices=["", "raw", "compressed"],
        description="raw subscribes the topics, compressed subscribes <topic>/compressed",
    ),
    *(
        DeclareLaunchArgument(
            name, default_value="", description="0..1, or -1 for the value the bundle was made with"
        )
        for name in THRESHOLDS
    ),
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node"),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=["true", "false"],
        description="configure and activate the node once it runs",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="log level of the node",
    ),
)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node and its event handlers, made from the launch arguments."""

    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context).strip()

    params_file = Path(given("params_file")).expanduser()
    if not params_file.is_file():
        raise RuntimeError(f"params_file {params_file} does not exist")
    namespace = given("namespace")
    logger = ".".join([*namespace.strip("/").split("/"), "perception"]).lstrip(".")
    node = LifecycleNode(
        package="mtc_perception",
        executable="perception_node",
        name="perception",
        namespace=namespace,
        parameters=[
            str(params_file),
            overrides({argument.name: given(argument.name) for argument in ARGUMENTS}),
        ],
        ros_arguments=["--log-level", f"{logger}:={given('log_level')}"],
        additional_env=transport_profile(),
        output="screen",
    )
    if given("autostart") == "false":
        return [node]
    # The handlers come first, so that no transition is missed.
    return [*autostart(node), node]


def overrides(given: dict[str, str]) -> dict[str, object]:
    """The node parameters that the launch arguments set; raises RuntimeError for bad ones."""
    parameters: dict[str, object] = {
        name: given[name] for name in ("bundle", "engine") if given[name]
    }
    for name in THRESHOLDS:
        if given[name]:
            try:
                parameters[name] = float(given[name])
            except ValueError:
                raise RuntimeError(f"{name} is {given[name]!r}; it must be a number") from None

    cameras, topics = words(given["cameras"]), words(given["topics"])
    if cameras:
        parameters["cameras"] = cameras
    elif given["params_file"] == str(DEFAULT_PARAMS):
        cameras = ["front"]
    elif topics or given["transport"]:
        raise RuntimeError("topics and transport need cameras, which says whose they are")
    if topics:
        if len(topics) != len(cameras):
            raise RuntimeError(
                f"{len(topics)} topics for {len(cameras)} cameras ({', '.join(cameras)}); "
                "give one topic for each camera"
            )
        pairs = zip(cameras, topics, strict=True)
        parameters.update({f"{camera}.image_topic": topic for camera, topic in pairs})
    if given["transport"]:
        parameters.update({f"{camera}.transport": given["transport"] for camera in cameras})
    return parameters


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def transport_profile() -> dict[str, str]:
    """Room for images in Fast DDS's shared memory, unless the environment has a profile already."""
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    if any(name in os.environ for name in names):
        return {}
    old = os.environ.get("ROS_DISTRO") in ("humble", "jazzy")
    return {names[0] if old else names[1]: str(SHARE / "config" / "fastdds.xml")}


def autostart(node: LifecycleNode) -> list[LaunchDescriptionEntity]:
    """Configure when the process has started, activate when configured; say it when that fails."""

    def change(transition: int) -> EmitEvent:
        return EmitEvent(
            event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition)
        )

    return [
        RegisterEventHandler(
            OnProcessStart(target_action=node, on_start=[change(Transition.TRANSITION_CONFIGURE)])
        ),
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node,
                start_state="configuring",
                goal_state="inactive",
                entities=[change(Transition.TRANSITION_ACTIVATE)],
            )
        ),
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node,
                start_state="configuring",
                goal_state="unconfigured",
                entities=[LogInfo(msg="perception is not configured: the reason is above")],
            )
        ),
    ]

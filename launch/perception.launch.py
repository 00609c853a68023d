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

from mtc_perception.node.launch_arguments import (
    THRESHOLDS,
    LaunchArgumentError,
    fastdds_environment,
    node_parameters,
)

SHARE = Path(get_package_share_directory("mtc_perception"))
DEFAULT_PARAMS = SHARE / "config" / "perception.yaml"

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
        raise LaunchArgumentError(f"params_file {params_file} does not exist")
    namespace = given("namespace")
    logger = ".".join([*namespace.strip("/").split("/"), "perception"]).lstrip(".")
    node = LifecycleNode(
        package="mtc_perception",
        executable="perception_node",
        name="perception",
        namespace=namespace,
        parameters=[
            str(params_file),
            node_parameters(
                {argument.name: given(argument.name) for argument in ARGUMENTS},
                own_params_file=params_file != DEFAULT_PARAMS,
            ),
        ],
        ros_arguments=["--log-level", f"{logger}:={given('log_level')}"],
        additional_env=fastdds_environment(SHARE / "config" / "fastdds.xml", os.environ),
        output="screen",
    )
    if given("autostart") == "false":
        return [node]
    # The handlers come first, so that no transition is missed.
    return [*autostart(node), node]


def autostart(node: LifecycleNode) -> list[LaunchDescriptionEntity]:
    """Configure when the process has started, activate when configured."""

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
    ]

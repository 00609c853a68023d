"""Start the perception node and, with autostart, take it to `active`.

    ros2 launch mtc_perception perception.launch.py topics:=/camera/image_raw
    ros2 launch mtc_perception perception.launch.py --show-args

Every parameter of the node is an argument. Arguments that are not given leave the value of
`params_file`; arguments that are given win over it. The node starts itself, so that nothing is left
to be waited for where it ends: Humble, Jazzy and Kilted.
"""

import os
import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from mtc_perception.node.launch_arguments import (
    LaunchArgumentError,
    check_names,
    fastdds_environment,
    node_parameters,
)
from mtc_perception.node.parameters import Spec, node_specs

SHARE = Path(get_package_share_directory("mtc_perception"))
DEFAULT_PARAMS = SHARE / "config" / "perception.yaml"

SPECS = {
    **{name: spec for name, spec in node_specs().items() if name != "cameras"},
    "use_sim_time": Spec(False, "Follow /clock, as of a recording that is played"),
}


def parameter_argument(name: str, spec: Spec) -> DeclareLaunchArgument:
    """The launch argument of a parameter; all but autostart are not given by default."""
    choices = ("true", "false") if isinstance(spec.default, bool) else spec.choices
    default = "true" if name == "autostart" else ""
    return DeclareLaunchArgument(
        name,
        default_value=default,
        description=spec.description,
        choices=[*([] if default else [""]), *choices] if choices else None,
    )


ARGUMENTS = (
    DeclareLaunchArgument(
        "params_file",
        default_value=str(DEFAULT_PARAMS),
        description="YAML file with the node's parameters",
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
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node"),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="log level of the node",
    ),
    *(parameter_argument(name, spec) for name, spec in SPECS.items()),
)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, made from the launch arguments."""

    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context).strip()

    check_names(sys.argv, Path(__file__).name, [argument.name for argument in ARGUMENTS])
    params_file = Path(given("params_file")).expanduser()
    if not params_file.is_file():
        raise LaunchArgumentError(f"params_file {params_file} does not exist")
    namespace = given("namespace")
    logger = ".".join([*namespace.strip("/").split("/"), "perception"]).lstrip(".")
    return [
        Node(
            package="mtc_perception",
            executable="perception_node",
            name="perception",
            namespace=namespace,
            parameters=[
                str(params_file),
                node_parameters(
                    {argument.name: given(argument.name) for argument in ARGUMENTS},
                    {name: spec.default for name, spec in SPECS.items()},
                    own_params_file=params_file != DEFAULT_PARAMS,
                ),
            ],
            ros_arguments=["--log-level", f"{logger}:={given('log_level')}"],
            additional_env=fastdds_environment(SHARE / "config" / "fastdds.xml", os.environ),
            output="screen",
        )
    ]

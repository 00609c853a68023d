"""The ROS 2 node: the only part of the vehicle's package that knows ROS."""

import sys

HELP = """\
usage: perception_node [--ros-args -p NAME:=VALUE ... --params-file FILE -r FROM:=TO ...]

One network on the images of any number of cameras, until Ctrl-C. Without autostart it waits
unconfigured for the transitions of a lifecycle node.

example:
  perception_node --ros-args -p autostart:=true -p bundle:=/path/to/network.mtc \\
    -p front.image_topic:=/camera/image_raw

Every parameter with its default: docs/node.md, or of a running node `ros2 param describe`."""


def main() -> int:
    """Entry point of `perception_node`: the node's exit code, 2 where ROS 2 is missing or an
    argument is none of ROS's, which would count for nothing."""
    try:
        from rclpy.utilities import remove_ros_args

        from mtc_perception.node.node import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("mtc_perception."):
            raise  # a mistake of ours
        print(
            f"error: {error.name} is missing: source a ROS 2 installation, or tools/ros_env.sh of"
            " a checkout",
            file=sys.stderr,
        )
        return 2
    given = remove_ros_args(sys.argv)[1:]
    if {"-h", "--help"}.intersection(given):
        print(HELP)
        return 0
    if given:
        print(
            f"error: what {given[0]} means is not known: parameters are given as"
            " --ros-args -p NAME:=VALUE, see --help",
            file=sys.stderr,
        )
        return 2
    return run()

"""The ROS 2 node: the only part of the vehicle's package that knows ROS."""

import sys


def main() -> int:
    """Entry point of `perception_node`: the node's exit code, 2 where ROS 2 is missing."""
    try:
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
    return run()

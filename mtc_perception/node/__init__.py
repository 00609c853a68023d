"""The ROS 2 node: the only part of the vehicle's package that knows ROS."""

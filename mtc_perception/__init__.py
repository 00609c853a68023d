"""Real-time multi-task road perception for ROS 2: vehicle boxes, drivable area, lane lines."""

__version__ = "0.1.0"

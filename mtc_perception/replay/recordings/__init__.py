"""Rosbag2 recordings, read and written without ROS; damaged ones as far as they go."""

"""A network at work: frames in, perceptions out, engines exchanged while it runs; without ROS."""

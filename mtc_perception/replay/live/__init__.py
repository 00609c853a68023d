"""The real node under real DDS: fed, watched and recorded by processes of their own. Needs ROS."""

"""Real-time multi-task road perception for ROS 2: vehicle boxes, drivable area, lane lines."""

import os
import sys

__version__ = "0.1.0"

# Before anything imports them: ONNX Runtime, OpenVINO, NNCF and Ray report to their makers unless
# told not to, and write identifiers into the user's home. Whoever wants that says so himself.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # cannot be imported

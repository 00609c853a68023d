"""Real-time multi-task road perception for ROS 2: vehicle boxes, drivable area, lane lines."""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtc_perception.core.images import SourceImage
    from mtc_perception.core.perception import Perception
    from mtc_perception.runtime.perceiver import Perceiver

__version__ = "0.1.0"
__all__ = ["Perceiver", "Perception", "SourceImage"]

# Before anything imports them: ONNX Runtime, OpenVINO, NNCF and Ray report to their makers unless
# told not to, and write identifiers into the user's home. Whoever wants that says so himself.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # cannot be imported

_MODULES = {
    "Perceiver": "runtime.perceiver",
    "Perception": "core.perception",
    "SourceImage": "core.images",
}


def __getattr__(name: str) -> Any:
    """What is in `__all__`, imported when somebody asks for it: every module imports this one."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

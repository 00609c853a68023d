"""Asking a node for another engine over real DDS, under a stream of frames."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtc_perception_interfaces.srv import LoadEngine
from rcl_interfaces.srv import GetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from vision_msgs.msg import Detection2DArray, LabelInfo

from mtc_perception.core.engine import Engine
from mtc_perception.node.messages import stamp_ns
from mtc_perception.util.errors import EngineError
from support.node_rig import PATIENCE_S, Client, Rig, image_message, solid

RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
OTHER_CLASSES = ["car", "bus", "cyclist"]


def ask(rig: Client, bundle: Path | str = "", engine: str = "", precision: str = "") -> Any:
    """Send the request; the future of its answer."""
    service = rig.create_client(LoadEngine, "/perception/load_engine")
    rig.wait_for(service.service_is_ready, "the service")
    request = LoadEngine.Request(bundle=str(bundle), engine=engine, precision=precision)
    return service.call_async(request)


def answer(rig: Client, future: Any) -> tuple[bool, str]:
    rig.wait_for(future.done, "an answer of load_engine", timeout_s=2 * PATIENCE_S)
    return future.result().success, future.result().message


def load(rig: Client, *arguments: Any, **named: Any) -> tuple[bool, str]:
    return answer(rig, ask(rig, *arguments, **named))


def settled(rig: Client, message: str) -> dict[str, str]:
    """What the diagnostics say once they tell of this answer: older ones may still be under way."""
    rig.wait_for_value("engine", "swap", message)
    return {entry.key: entry.value for entry in rig.diagnostics["engine"].values}


def parameters(rig: Client) -> dict[str, str]:
    service = rig.create_client(GetParameters, "/perception/get_parameters")
    names = ["bundle", "engine", "precision"]
    values = rig.call(service, GetParameters.Request(names=names)).values
    return {name: value.string_value for name, value in zip(names, values, strict=True)}


class Drive:
    """Sends a frame as soon as the one before has come out, so that none has a reason to drop."""

    def __init__(self, rig: Rig) -> None:
        rig.run()
        self.rig = rig
        self.detections = rig.collect(Detection2DArray, "detections")
        self.labels = rig.collect(LabelInfo, "label_info", LATCHED)
        self.publish = rig.camera("image_raw", qos=RELIABLE)
        self.sent = 0

    def frame(self) -> Any:
        message = image_message(solid(255, 204, 0), "rgb8", self.rig)
        self.publish(message)
        self.sent += 1
        self.rig.wait_for(lambda: len(self.detections) == self.sent, f"frame {self.sent}")
        assert stamp_ns(self.detections[-1].header) == stamp_ns(message.header)
        return self.detections[-1]

    def until(self, done: Callable[[], bool]) -> None:
        while not done():
            self.frame()


def classes_of(detections: Any) -> list[str]:
    return [detection.results[0].hypothesis.class_id for detection in detections.detections]


def is_closed(engine: Engine) -> bool:
    try:
        engine.start()
    except EngineError as error:
        return "the engine is closed" in str(error)
    engine.wait()
    return False


def thread_names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def wait_for_labels(rig: Client, labels: list[Any], names: list[str]) -> None:
    def there() -> bool:
        return bool(labels) and [one.class_name for one in labels[-1].class_map] == names

    rig.wait_for(there, f"label_info with {names}")


TOY_ANSWER = ["vehicle", "truck", "vehicle"]  # scores 0.6, 0.3, 0.2
OTHER_ANSWER = ["car", "bus", "car", "bus", "car"]  # and 0.15, 0.12

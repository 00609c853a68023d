"""What other programs see of the node in a soak, and their requests to it."""

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from mtc_perception_interfaces.srv import LoadEngine
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from mtc_perception.node.messages import rejection, serialised_stamp_ns
from mtc_perception.replay.live.recorder import OUTPUTS, RECORDER_QOS

Status = dict[str, str]


class Observer:
    """A client of the node in a thread of its own: what it says and answers, and requests to it."""

    def __init__(self, namespace: str, cameras: Iterable[str]) -> None:
        """Of the node `perception` in `namespace`, which has several cameras."""
        self.statuses: dict[str, Status] = {}
        """Of the last diagnostics, by the name behind the node's."""
        self.diagnosed = 0
        self.arrived: dict[str, dict[str, set[int]]] = {}
        """Stamps of the images by camera and output."""
        self.rejected: dict[str, dict[int, str]] = {}
        """Why images were not processed."""
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("soak_observer", context=self._context)
        node = f"{namespace}/perception"
        self._load: Any = self._node.create_client(LoadEngine, f"{node}/load_engine")
        self._set: Any = self._node.create_client(
            SetParametersAtomically, f"{node}/set_parameters_atomically"
        )
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._topics = []
        for camera in cameras:
            self.forget(camera)
            for output, kind in zip(
                OUTPUTS, (Detection2DArray, Image, Image, DiagnosticArray), strict=True
            ):
                topic = f"{namespace}/{camera}/{output}"
                self._topics.append(topic)
                self._node.create_subscription(
                    kind, topic, self._receiver(camera, output), RECORDER_QOS, raw=True
                )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="observer")
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self._context.try_shutdown()

    def forget(self, camera: str) -> None:
        """Begin anew with what came of a camera's images."""
        self.arrived[camera] = {output: set() for output in OUTPUTS}
        self.rejected[camera] = {}

    def outputs_found(self) -> bool:
        return all(self._node.count_publishers(topic) for topic in self._topics)

    def load_engine(self, precision: str) -> Any:
        """The future of the answer."""
        return self._load.call_async(LoadEngine.Request(precision=precision))

    def set_parameters(self, values: dict[str, Any]) -> Any:
        """The future of the answer."""
        parameters = [Parameter(n, value=value).to_parameter_msg() for n, value in values.items()]
        return self._set.call_async(SetParametersAtomically.Request(parameters=parameters))

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.statuses = {
            status.name.partition(": ")[2]: {entry.key: entry.value for entry in status.values}
            for status in message.status
        }
        self.diagnosed += 1

    def _receiver(self, camera: str, output: str) -> Callable[[bytes], None]:
        def on_output(message: bytes) -> None:
            stamp_ns = serialised_stamp_ns(message)
            if output == "timing":
                reason = rejection(deserialize_message(message, DiagnosticArray))
                if reason:
                    self.rejected[camera][stamp_ns] = reason
                    return
            self.arrived[camera][output].add(stamp_ns)

        return on_output

"""A perception node in a thread of its own, and a client that talks to it over real DDS."""

import contextlib
import gc
import threading
import time
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from mtc_perception.node.messages import stamp_ns
from mtc_perception.node.node import PerceptionNode

PATIENCE_S = 60.0
"""Only a failing test waits so long; a busy machine may need much of it."""
SENSOR_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class Client(Node):
    """What another process would do; every call waits for its effect or fails the test."""

    def __init__(self, context: Context) -> None:
        super().__init__("client", context=context)
        self.executor_ = SingleThreadedExecutor(context=context)
        self.executor_.add_node(self)
        self._change = self.create_client(ChangeState, "/perception/change_state")
        self._state = self.create_client(GetState, "/perception/get_state")
        self._parameters_client = self.create_client(
            SetParametersAtomically, "/perception/set_parameters_atomically"
        )
        self.diagnostics: dict[str, Any] = {}
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics = {status.name.split(": ")[1]: status for status in message.status}

    def wait_for(
        self, happened: Callable[[], object], what: str, timeout_s: float = PATIENCE_S
    ) -> None:
        end = time.monotonic() + timeout_s
        while not happened():
            assert time.monotonic() < end, f"did not happen within {timeout_s} s: {what}"
            self.executor_.spin_once(timeout_sec=0.02)

    def spin_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor_.spin_once(timeout_sec=0.02)

    def call(self, client: Any, request: Any, timeout_s: float = PATIENCE_S) -> Any:
        self.wait_for(client.service_is_ready, client.srv_name)
        future = client.call_async(request)
        self.wait_for(future.done, f"an answer of {client.srv_name}", timeout_s)
        return future.result()

    def wait_for_node(self) -> None:
        self.wait_for(self._change.service_is_ready, "the node")

    def begin(self, transition: int) -> Any:
        """Ask a node that is there for a transition, without waiting for the future answer."""
        return self._change.call_async(ChangeState.Request(transition=Transition(id=transition)))

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(self._change, request).success)

    def configure(self) -> bool:
        return self.change(Transition.TRANSITION_CONFIGURE)

    def activate(self) -> bool:
        return self.change(Transition.TRANSITION_ACTIVATE)

    def deactivate(self) -> bool:
        return self.change(Transition.TRANSITION_DEACTIVATE)

    def cleanup(self) -> bool:
        return self.change(Transition.TRANSITION_CLEANUP)

    def state(self) -> str:
        return str(self.call(self._state, GetState.Request()).current_state.label)

    def set(self, **values: Any) -> str:
        """Set parameters atomically; the reason they were refused, or an empty string."""
        parameters = [
            Parameter(name.replace("__", "."), value=value).to_parameter_msg()
            for name, value in values.items()
        ]
        request = SetParametersAtomically.Request(parameters=parameters)
        result = self.call(self._parameters_client, request).result
        assert result.successful == (not result.reason)
        return str(result.reason)

    def collect(self, message: type, topic: str, qos: QoSProfile | int = 10) -> list[Any]:
        """The messages of a topic, as they come in, once its publisher is found."""
        received: list[Any] = []
        self.create_subscription(message, topic, received.append, qos)
        self.wait_for(lambda: self.count_publishers(topic), f"a publisher of {topic}")
        return received

    def camera(
        self, topic: str, message: type = Image, qos: QoSProfile = SENSOR_QOS
    ) -> Callable[[Any], None]:
        """A publish function of a topic that the active node has found."""
        publisher = self.create_publisher(message, topic, qos)
        self.wait_for(publisher.get_subscription_count, f"the node's subscription to {topic}")
        return publisher.publish

    def values(self, status: str) -> dict[str, str]:
        """The key values of the next diagnostic status of this name."""
        self.diagnostics = {}
        self.wait_for(lambda: status in self.diagnostics, f"diagnostics of {status}")
        return {entry.key: entry.value for entry in self.diagnostics[status].values}

    def wait_for_value(
        self, status: str, key: str, value: str, timeout_s: float = PATIENCE_S
    ) -> None:
        def seen() -> bool:
            entries = self.diagnostics[status].values if status in self.diagnostics else []
            return any(entry.key == key and value in entry.value for entry in entries)

        self.wait_for(seen, f"{status}: {key} has {value!r}", timeout_s)


class Rig(Client):
    """The client, with the node it talks to in this process."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        context = Context()
        rclpy.init(context=context)
        overrides = [
            Parameter(name.replace("__", "."), value=value)
            for name, value in ({"diagnostics_period_s": 0.1} | parameters).items()
        ]
        self.node = PerceptionNode(context=context, parameter_overrides=overrides)
        self._node_executor = SingleThreadedExecutor(context=context)
        self._node_executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()
        super().__init__(context)

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._node_executor.spin()

    @property
    def configured(self) -> Any:
        """What a configured node is made of, for tests that break a part of it."""
        return self.node._configured

    def run(self) -> None:
        """Configure and activate."""
        assert self.configure()
        assert self.activate()

    def perceive(self, publish: Callable[[Any], None], image: Any, results: list[Any]) -> Any:
        """Publish an image until its result is there: best effort may lose one."""

        def arrived() -> bool:
            return any(stamp_ns(result.header) == stamp_ns(image.header) for result in results)

        end = time.monotonic() + PATIENCE_S
        while not arrived():
            assert time.monotonic() < end, "no result for the image"
            publish(image)
            for _ in range(20):
                self.executor_.spin_once(timeout_sec=0.02)
                if arrived():
                    break
        return next(r for r in results if stamp_ns(r.header) == stamp_ns(image.header))

    def close(self) -> None:
        """Leave nothing in the domain that the next test could find."""
        self._node_executor.shutdown()
        self._thread.join(timeout=10.0)
        assert not self._thread.is_alive()
        self.node.close()
        self.node.destroy_node()
        # rclpy's lifecycle services live on until their node is collected.
        del self.node, self._node_executor
        gc.collect()
        self.executor_.shutdown()
        self.destroy_node()
        self.context.try_shutdown()


def image_message(
    pixels: npt.NDArray[np.uint8], encoding: str, node: Node, frame_id: str = "camera"
) -> Image:
    """An image message of rows of bytes `[H, bytes per row, ...]`, stamped now."""
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding=encoding)
    message.step = int(pixels[0].size)
    message.data = array("B", pixels.tobytes())
    message.header.frame_id = frame_id
    message.header.stamp = node.get_clock().now().to_msg()
    return message


def pixels_of(message: Image) -> npt.NDArray[np.uint8]:
    """The pixels of an rgb8 or mono8 image without padding, `[H, W, 3]` or `[H, W]`."""
    shape = (message.height, message.width) + (() if message.encoding == "mono8" else (3,))
    return np.frombuffer(message.data, np.uint8).reshape(shape)


def solid(red: int, green: int, blue: int, height: int = 192, width: int = 320) -> Any:
    """An RGB image of one colour; 320 x 192 has the shape of the toy network's input."""
    return np.full((height, width, 3), (red, green, blue), np.uint8)


def detections_of(rig: Rig, topic: str = "detections") -> list[Any]:
    return rig.collect(Detection2DArray, topic)

"""Image messages through the real node, over real DDS."""

import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from bench.fuzz.targets import SIZE, Target, Try, image_files, small_image
from mtc_perception.node.node import PerceptionNode
from mtc_perception.node.parameters import default_bundle
from mtc_perception.replay.live.node_process import private_ros_domain
from mtc_perception.runtime.frames import Counters

_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_MATCH_S = 20.0
_ANSWER_S = 4.0
"""A message without an ending after so long is a finding."""


class Unaccounted(Exception):
    """An image was received and has no ending, or the node does not answer any more."""


def message_targets() -> list[Target]:
    """What a camera, or whatever takes itself for one, may send."""
    return [
        Target("Image message", _raw, lambda folder: _node(folder, compressed=False)),
        Target("CompressedImage message", _encoded, lambda folder: _node(folder, compressed=True)),
    ]


def _raw(folder: Path) -> list[bytes]:
    height, width = SIZE
    messages = []
    for encoding, channels in (("bgr8", 3), ("rgba8", 4), ("mono8", 1), ("yuv422_yuy2", 2)):
        message = Image(height=height, width=width, encoding=encoding, step=width * channels)
        message.header.frame_id = "camera"
        message.data = array("B", small_image().tobytes() * 2)[: height * width * channels]
        messages.append(serialize_message(message))
    return messages


def _encoded(folder: Path) -> list[bytes]:
    return [
        serialize_message(CompressedImage(format="jpeg", data=array("B", data)))
        for data in image_files(folder)
    ]


@contextmanager
def _node(folder: Path, compressed: bool) -> Iterator[Try]:
    """The node, active, and a camera that nothing of is lost: each input is waited for."""
    parameters = {
        "bundle": str(default_bundle()),
        "reliability": "reliable",
        "front.image_topic": "/fuzz/image_raw",
        "front.transport": "compressed" if compressed else "raw",
    }
    with private_ros_domain():
        context = rclpy.Context()
        rclpy.init(context=context)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = PerceptionNode(context=context, parameter_overrides=overrides)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        node.trigger_configure()
        node.trigger_activate()
        thread = threading.Thread(target=_spin, args=(executor,))
        thread.start()
        camera = rclpy.create_node("fuzz_camera", context=context)
        topic = "/fuzz/image_raw" + ("/compressed" if compressed else "")
        publisher = camera.create_publisher(CompressedImage if compressed else Image, topic, _QOS)
        _wait(publisher.get_subscription_count, _MATCH_S, "the node subscribes")
        sent = 0

        def once(data: bytes) -> bool:
            nonlocal sent
            before = _ended(node).processed
            publisher.publish(data)
            sent += 1
            _wait(lambda: _ended(node).received == sent, _ANSWER_S, "the image is received")
            _wait(lambda: _ended(node).waiting == 0, _ANSWER_S, "the image has an ending")
            counted = _ended(node)
            outcomes = counted.processed + counted.dropped + counted.stale + counted.malformed
            if outcomes != sent:
                raise Unaccounted(f"{sent} images were sent, {outcomes} have an ending: {counted}")
            return counted.processed > before

        whole = (_encoded if compressed else _raw)(folder)[0]
        try:
            yield once
            if not once(whole):
                raise Unaccounted("afterwards a whole image is not answered any more")
        finally:
            executor.shutdown()
            thread.join()
            node.close()
            node.destroy_node()
            camera.destroy_node()
            context.try_shutdown()


def _spin(executor: SingleThreadedExecutor) -> None:
    with suppress(ExternalShutdownException):
        executor.spin()


def _ended(node: PerceptionNode) -> Counters:
    configured = node._configured
    if configured is None:
        raise Unaccounted("the node is unconfigured")
    return configured.slots.counters()[0]


def _wait(happened: object, timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while not happened():  # type: ignore[operator]
        if time.monotonic() > end:
            raise Unaccounted(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.0002)

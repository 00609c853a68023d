"""How soon a node answers: from the start of its process to its first answer."""

import itertools
import tempfile
import time
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from mtc_perception.replay.live.node_process import NodeProcess, private_ros_domain
from mtc_perception.replay.live.reel import LiveConfig, Reel
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.util.errors import ReplayError

NAMESPACE = "/bench"
CLIP_S = 1.0
TIMEOUT_S = 60.0


def first_answer_s(bundle: Path, bag: Path) -> float:
    """Seconds from the start of a node that configures and activates itself to its first answer.

    The camera, raw, is there before. Raises UserError.
    """
    config = LiveConfig(
        Recording(path=bag),
        ReplayOptions(bundle=bundle, seconds=CLIP_S, transport="raw"),
        transport="raw",
    )
    reel = Reel(config)
    period_s = 1 / reel.rate_hz
    images = [item.message for item in reel]
    reel.close()
    parameters = {
        "autostart": True,
        "bundle": str(bundle),
        "front.image_topic": f"{NAMESPACE}/image_raw",
    }
    answers: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder, private_ros_domain():
        context = rclpy.Context()
        rclpy.init(context=context)
        try:
            node = rclpy.create_node("bench_start", context=context)
            camera = node.create_publisher(Image, f"{NAMESPACE}/image_raw", 1)
            node.create_subscription(
                Detection2DArray, f"{NAMESPACE}/detections", answers.append, 1, raw=True
            )
            executor = SingleThreadedExecutor(context=context)
            executor.add_node(node)
            with NodeProcess(parameters, NAMESPACE, Path(folder)) as process:
                began = time.monotonic()
                for image in itertools.cycle(images):
                    camera.publish(image)
                    executor.spin_once(timeout_sec=period_s)
                    if answers:
                        return time.monotonic() - began
                    process.check()
                    if time.monotonic() - began > TIMEOUT_S:
                        break
        finally:
            context.try_shutdown()
    raise ReplayError(f"the node gave no answer within {TIMEOUT_S:g} s")

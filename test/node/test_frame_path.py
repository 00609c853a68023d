"""The files that one image passes on its way through the node, counted as it passes them."""

import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from support.node_rig import Rig, image_message, solid

pytestmark = pytest.mark.dds

PATH = [
    "node.camera",
    "node.messages",
    "runtime.frames",
    "runtime.worker",
    "core.images",
    "runtime.perceiver",
    "core.letterbox",
    "engines.openvino",
    "core.perception",
    "core.overlay",
]
"""In the order in which an image enters them first."""


class Passed:
    """The modules of the package that threads begun from now on enter while `counting`."""

    def __init__(self) -> None:
        self.counting = False
        self.modules: list[str] = []

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        if not self.counting or event != "call":
            return
        package, _, module = frame.f_globals.get("__name__", "").partition(".")
        if package == "mtc_perception" and module not in self.modules:
            self.modules.append(module)


@pytest.fixture
def passed() -> Iterator[Passed]:
    passed = Passed()
    threading.setprofile(passed)
    yield passed
    threading.setprofile(None)  # type: ignore[arg-type]


def is_idle(rig: Rig) -> bool:
    (counters,) = rig.node._configured.slots.counters()
    return counters.processed + counters.dropped == counters.received


def test_an_image_passes_ten_files_from_message_to_messages(passed, start_node):
    # Nothing else is to run meanwhile.
    rig = start_node(engine="openvino", diagnostics_period_s=60.0)
    rig.run()
    outputs = [
        rig.collect(message, topic)
        for message, topic in (
            (Detection2DArray, "detections"),
            (Image, "drivable_mask"),
            (Image, "lane_mask"),
            (DiagnosticArray, "timing"),
            (Image, "overlay"),
        )
    ]
    publish = rig.camera("image_raw")
    image = image_message(solid(255, 204, 0, 96, 300), "bgr8", rig)
    rig.perceive(publish, image, outputs[-1])
    # The first image, which may have been sent again, has imported whatever is imported late.
    rig.wait_for(lambda: all(outputs), "every output of the first image")
    rig.wait_for(lambda: is_idle(rig), "the end of its work")
    passed.counting = True
    second = image_message(solid(0, 204, 255, 96, 300), "bgr8", rig)
    rig.perceive(publish, second, outputs[-1])
    passed.counting = False
    assert passed.modules == PATH
    assert len(PATH) <= 10

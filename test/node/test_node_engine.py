"""What the node does when its engine fails under it: the real engine, really closed."""

import threading
from typing import Any

import pytest
from sensor_msgs.msg import Image

from support.node_rig import Rig, image_message, solid

pytestmark = pytest.mark.dds


def start(start_node, **parameters) -> Rig:
    rig = start_node(engine="openvino", **parameters)
    rig.run()
    rig.masks = rig.collect(Image, "drivable_mask")
    rig.publish = rig.camera("image_raw")
    perceive(rig)
    return rig


def perceive(rig: Rig) -> None:
    rig.perceive(rig.publish, image_message(solid(255, 0, 0), "rgb8", rig), rig.masks)


def break_engine(rig: Rig) -> None:
    rig.configured.host.perceiver.engine.close()
    rig.publish(image_message(solid(255, 0, 0), "rgb8", rig))


@pytest.mark.fault(
    area="engine",
    row="an engine raises an error",
    answer="The next CPU engine takes over; the image is dropped.",
    diagnostics="The engine is WARN: degraded, with the reason and what runs now.",
)
def test_a_failed_engine_is_replaced_by_the_next_cpu_engine(start_node):
    rig = start(start_node)
    break_engine(rig)
    rig.wait_for_value("engine", "degraded", "openvino failed: OpenVINO: the engine is closed")
    values = rig.values("engine")
    assert values["engine"] == "onnxruntime"
    assert values["state"] == "active"
    assert rig.diagnostics["engine"].level == b"\x01"
    perceive(rig)
    assert int(rig.values("front")["frames_dropped"]) == 1
    # Live settings hold on the new engine.
    assert rig.set(max_detections=1) == ""
    assert rig.values("engine")["max_detections"] == "1"


def test_a_label_out_of_range_is_the_engines_failure(start_node, monkeypatch):
    rig = start(start_node)
    engine = rig.configured.host.perceiver.engine
    wait = engine.wait

    def wrong() -> Any:
        outputs = wait()
        outputs.labels[:] = 7
        return outputs

    monkeypatch.setattr(engine, "wait", wrong)
    rig.publish(image_message(solid(255, 0, 0), "rgb8", rig))
    rig.wait_for_value("engine", "degraded", "openvino failed: labels are not all within the 2")
    assert rig.values("engine")["state"] == "active"
    perceive(rig)


@pytest.mark.fault(
    area="engine",
    row="the last engine fails",
    answer="The node goes through its error state to unconfigured and can be configured again.",
    diagnostics="The engine is ERROR with the failure.",
)
def test_with_no_engine_left_the_node_goes_through_the_error_state_and_can_start_again(start_node):
    rig = start(start_node)
    break_engine(rig)
    rig.wait_for_value("engine", "degraded", "running on onnxruntime")
    break_engine(rig)
    rig.wait_for_value("engine", "failure", "no CPU engine is left to fall back to")
    rig.wait_for_value("engine", "state", "unconfigured")
    assert rig.diagnostics["engine"].level == b"\x02"
    assert rig.state() == "unconfigured"
    assert "inference" not in {thread.name for thread in threading.enumerate()}
    rig.run()
    perceive(rig)
    values = rig.values("engine")
    assert "failure" not in values
    assert values["degraded"] == "no"


@pytest.mark.fault(
    area="engine",
    row="an engine fails and fallback is 'none'",
    answer="The node goes to unconfigured.",
    diagnostics="The engine is ERROR with the failure.",
)
def test_fallback_none_stops_at_the_first_failure(start_node):
    rig = start(start_node, fallback="none")
    break_engine(rig)
    rig.wait_for_value("engine", "failure", "parameter fallback is 'none'")
    assert rig.state() == "unconfigured"

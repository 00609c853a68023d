"""What the node does when its engine fails under it: the real engine, really closed."""

import shutil
import threading
import time
from typing import Any

import pytest
from sensor_msgs.msg import Image

from support.accounts import check_accounts
from support.node_rig import Rig, image_message, solid
from support.swap_rig import answer, ask, settled

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
    assert check_accounts(rig.values("front")).dropped == 1
    # Live settings hold on the new engine.
    assert rig.set(max_detections=1) == ""
    assert rig.values("engine")["max_detections"] == "1"


@pytest.mark.fault(
    area="bundle",
    row="the bundle is gone when its engine fails",
    answer="The next CPU engine takes over: it has its network since the node was configured.",
    diagnostics="The engine is WARN: degraded, with the reason.",
)
def test_a_fallback_does_not_need_the_bundle(start_node, toy_bundle, tmp_path):
    bundle = shutil.copytree(toy_bundle, tmp_path / "own.mtc")
    rig = start(start_node, bundle=str(bundle))
    shutil.rmtree(bundle)
    break_engine(rig)
    rig.wait_for_value("engine", "degraded", "running on onnxruntime")
    perceive(rig)


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


@pytest.fixture
def hang(monkeypatch):
    """Call it with a rig: from now on its engine hangs in the next image, until the test ends."""
    free = threading.Event()

    def make_hang(rig: Rig) -> None:
        engine = rig.configured.host.perceiver.engine
        wait = engine.wait
        monkeypatch.setattr(engine, "wait", lambda: free.wait(60) and wait())

    yield make_hang
    free.set()


@pytest.mark.fault(
    area="engine",
    row="an engine hangs while images go on to come",
    answer="Images are dropped until the next CPU engine has taken over; none queues.",
    diagnostics="After 1 s at the latest engine and camera are ERROR: which engine, since when.",
)
def test_a_hanging_engine_is_an_error_within_a_second_though_images_come(start_node, hang):
    rig = start(start_node, diagnostics_period_s=60.0)
    hang(rig)

    def come() -> None:
        rig.publish(image_message(solid(255, 0, 0), "rgb8", rig))
        rig.spin_for(0.05)

    rig.diagnostics = {}
    begin_s = time.monotonic()
    while not rig.diagnostics:
        come()
    taken_s = time.monotonic() - begin_s
    engine, camera = rig.diagnostics["engine"], rig.diagnostics["front"]
    assert (engine.level, camera.level) == (b"\x02", b"\x02")
    assert "openvino has not answered for" in engine.message
    assert camera.message.startswith("unanswered: images come, no answer for")
    assert 0.5 < taken_s < 1.5  # 1 s, but for a busy machine
    values = {entry.key: entry.value for entry in camera.values}
    assert check_accounts(values).waiting >= 1
    rig.masks.clear()
    while not rig.masks:
        come()
    host = rig.configured.host
    assert host.degraded == "openvino failed: no answer in 3 s; running on onnxruntime"
    assert host.failures == 1
    assert rig.deactivate()
    rig.wait_for(lambda: "inactive" in rig.diagnostics["front"].message, "the last word")
    values = {entry.key: entry.value for entry in rig.diagnostics["front"].values}
    assert check_accounts(values).waiting == 0


@pytest.mark.fault(
    area="lifecycle",
    row="the node is deactivated while its engine hangs",
    answer="It is done within 2 s, by way of the error state: the node can be configured again.",
    diagnostics="The engine is ERROR: it is given up.",
)
def test_deactivate_does_not_wait_for_an_engine_that_hangs(start_node, hang):
    rig = start(start_node)
    hang(rig)
    rig.publish(image_message(solid(255, 0, 0), "rgb8", rig))
    rig.wait_for(lambda: rig.node._worker._in_engine, "the image in the engine")
    begin_s = time.monotonic()
    assert not rig.deactivate()
    assert time.monotonic() - begin_s < 2.0
    assert rig.state() == "unconfigured"
    rig.wait_for_value("engine", "failure", "its engine is given up")
    rig.run()
    perceive(rig)


@pytest.mark.fault(
    area="engine",
    row="load_engine is called while the engine hangs",
    answer="Everything is served meanwhile; the new engine takes over as the old one is given up.",
    diagnostics="swap is loading, then done.",
)
def test_another_engine_can_be_loaded_while_one_hangs(start_node, hang, toy_bundle):
    rig = start(start_node)
    hang(rig)
    rig.publish(image_message(solid(255, 0, 0), "rgb8", rig))
    rig.wait_for(lambda: rig.node._worker._in_engine, "the image in the engine")
    future = ask(rig, toy_bundle, "onnxruntime")
    longest_s = 0.0
    while not future.done():
        begin_s = time.monotonic()
        assert rig.state() == "active"
        longest_s = max(longest_s, time.monotonic() - begin_s)
    assert longest_s < 0.5  # 0.1 s, but for a busy machine
    success, message = answer(rig, future)
    assert success, message
    assert settled(rig, message)["degraded"] == "no"
    perceive(rig)

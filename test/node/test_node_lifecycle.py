"""The node as a process of its own: every state, and a clean end from each of them."""

import shutil
import signal
import threading

import pytest
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image

from support.checkout import SHIPPED
from support.node_process import running
from support.node_rig import image_message, solid
from support.toy_bundle import write_toy_bundle

pytestmark = pytest.mark.dds


@pytest.mark.fault(
    area="signal",
    row="SIGINT or SIGTERM",
    answer="The process ends with exit code 0, in every state.",
    diagnostics="Nothing is logged as an error.",
)
@pytest.mark.parametrize(
    ("state", "number"),
    [
        *(
            (state, signal.SIGINT)
            for state in ("unconfigured", "configuring", "inactive", "active")
        ),
        *((state, signal.SIGTERM) for state in ("configuring", "active")),
    ],
)
def test_signals_end_the_node_cleanly_in_every_state(client, toy_bundle, state, number):
    with running(SHIPPED if state == "configuring" else toy_bundle) as node:
        client.wait_for_node()
        if state == "configuring":
            # Loading the shipped network takes long enough to be interrupted.
            client.begin(Transition.TRANSITION_CONFIGURE)
            client.wait_for(lambda: node.said("loading"), "the beginning of configure")
        if state in ("inactive", "active"):
            assert client.configure()
        if state == "active":
            assert client.activate()
            results = client.collect(Image, "drivable_mask")
            publish = client.camera("image_raw")

            def flowing() -> bool:
                publish(image_message(solid(255, 0, 0, 720, 1280), "rgb8", client))
                return len(results) >= 3

            client.wait_for(flowing, "images flowing")
        code, text = node.end(number)
    assert code == 0, text
    assert "Traceback" not in text
    assert "ERROR" not in text


def test_with_autostart_the_node_makes_itself_active(client, toy_bundle):
    with running(toy_bundle, parameters=("autostart:=true",)) as node:
        client.wait_for_node()
        assert client.state() == "active"
        assert client.deactivate()
        assert client.activate()
        code, text = node.end(signal.SIGTERM)
    assert code == 0, text


@pytest.mark.fault(
    area="lifecycle",
    row="with autostart, the bundle is missing",
    answer="The node stays, unconfigured; it can be configured once the bundle is there.",
    diagnostics="ERROR with the reason, state is unconfigured.",
)
def test_with_autostart_a_node_that_cannot_be_configured_waits_and_says_why(
    client, toy_bundle, tmp_path
):
    missing = tmp_path / "late.mtc"
    with running(missing, parameters=("autostart:=true",)) as node:
        client.wait_for_node()
        assert client.state() == "unconfigured"
        assert node.said("cannot configure")
        shutil.copytree(toy_bundle, missing)
        assert client.configure()
        code, text = node.end(signal.SIGINT)
    assert code == 0, text
    assert "Traceback" not in text


@pytest.mark.fault(
    area="lifecycle",
    row="the node is shut down while it is active",
    answer="It is finalized, and a signal ends the process with exit code 0.",
    diagnostics="state is finalized.",
)
def test_shutdown_transition_and_then_ctrl_c(client, toy_bundle):
    with running(toy_bundle) as node:
        assert client.configure()
        assert client.activate()
        assert client.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert client.state() == "finalized"
        client.wait_for_value("engine", "state", "finalized")
        assert node.end(signal.SIGINT)[0] == 0


@pytest.mark.fault(
    area="lifecycle",
    row="the node is taken through all its states twice",
    answer="It answers images again; no thread is left.",
    diagnostics="state follows.",
)
def test_the_whole_cycle_twice(start_node):
    rig = start_node()
    for _ in range(2):
        assert rig.state() == "unconfigured"
        assert rig.configure()
        assert rig.state() == "inactive"
        assert rig.count_publishers("detections") == 1
        assert rig.activate()
        results = rig.collect(Image, "drivable_mask")
        publish = rig.camera("image_raw")
        rig.perceive(publish, image_message(solid(255, 0, 0), "rgb8", rig), results)
        assert rig.deactivate()
        assert not rig.activate() or rig.deactivate()
        assert rig.cleanup()
        rig.wait_for_value("engine", "state", "unconfigured")
        rig.wait_for(lambda: rig.count_publishers("detections") == 0, "publishers gone")
        names = {thread.name for thread in threading.enumerate()}
        assert "inference" not in names


@pytest.mark.fault(
    area="lifecycle",
    row="images come while the node is inactive",
    answer="None is received.",
    diagnostics="The camera is OK: inactive.",
)
def test_inactive_means_no_subscription_and_no_output(start_node):
    rig = start_node()
    assert rig.configure()
    assert rig.count_subscribers("image_raw") == 0
    assert rig.activate()
    results = rig.collect(Image, "drivable_mask")
    publish = rig.camera("image_raw")
    rig.perceive(publish, image_message(solid(255, 0, 0), "rgb8", rig), results)
    assert rig.deactivate()
    results.clear()
    publish(image_message(solid(255, 0, 0), "rgb8", rig))
    rig.spin_for(0.3)
    assert not results
    assert rig.values("front")["input"] == "inactive"


@pytest.mark.fault(
    area="bundle",
    row="the bundle is missing",
    answer="configure fails; the node stays unconfigured.",
    diagnostics="The engine is ERROR with the path.",
)
def test_a_missing_bundle_is_a_failed_configure_with_the_reason(start_node, capfd):
    rig = start_node(bundle="/does/not/exist.mtc")
    assert not rig.configure()
    assert rig.state() == "unconfigured"
    rig.wait_for_value("engine", "failure", "/does/not/exist.mtc")
    assert rig.diagnostics["engine"].level == b"\x02"
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "cannot configure" in line]
    assert "/does/not/exist.mtc" in line


@pytest.mark.fault(
    area="bundle",
    row="a file of the bundle is damaged",
    answer="configure fails; with a whole bundle it works afterwards.",
    diagnostics="The engine is ERROR with the file.",
)
def test_a_damaged_bundle_is_refused_and_a_whole_one_then_works(start_node, toy_bundle, tmp_path):
    damaged = write_toy_bundle(tmp_path / "damaged.mtc")
    model = damaged / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    rig = start_node(bundle=str(damaged))
    assert not rig.configure()
    rig.wait_for_value("engine", "failure", "model.onnx")
    assert rig.set(bundle=str(toy_bundle)) == ""
    assert rig.configure()
    assert "failure" not in rig.values("engine")

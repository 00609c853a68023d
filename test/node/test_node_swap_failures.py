"""Another engine that cannot be had, or not wholly: refused with the reason, over real DDS."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rcl_interfaces.msg import SetParametersResult
from sensor_msgs.msg import Image

import mtc_perception.runtime.host
from mtc_perception.runtime.frames import Frame, Outcome
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver
from mtc_perception.util.deadline import Deadline
from support.node_rig import Rig
from support.swap_rig import (
    OTHER_ANSWER,
    TOY_ANSWER,
    Drive,
    answer,
    ask,
    classes_of,
    is_closed,
    load,
    parameters,
    settled,
)
from support.toy_bundle import write_toy_bundle

pytestmark = pytest.mark.dds


def damaged(path: Path) -> Path:
    model = write_toy_bundle(path) / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    return path


def untrue(path: Path) -> Path:
    """A bundle that loads, and whose network then does not do what it promises."""
    manifest = write_toy_bundle(path) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["self_test"]["fp32"]["lane_mean"] = 0.9
    manifest.write_text(json.dumps(content))
    return path


@pytest.mark.fault(
    area="bundle",
    row="load_engine of a bundle or an engine that cannot be had",
    answer="Refused with the reason; what runs goes on without losing an image.",
    diagnostics="swap is failed, with the reason.",
)
@pytest.mark.parametrize(
    ("bundle", "engine", "precision", "reason"),
    [
        (damaged, "", "", "model.onnx"),
        (untrue, "", "", "self-test: lane_mean"),
        (lambda path: path, "", "", "no such bundle"),
        (None, "", "int8", "no int8 variant for openvino"),
        (None, "", "int4", "precision is 'int4'; it must be one of"),
        (None, "magic", "", "engine is 'magic'; it must be one of"),
        (None, "tensorrt", "", "tensorrt"),
    ],
    ids=["damaged", "untrue", "missing", "int8", "int4", "magic", "tensorrt"],
)
def test_what_cannot_be_loaded_changes_nothing(
    start_node, toy_bundle, tmp_path, bundle, engine, precision, reason
):
    drive = Drive(start_node(engine="openvino", reliability="reliable"))
    rig = drive.rig
    before = parameters(rig)
    path = bundle(tmp_path / "new.mtc") if bundle else ""
    future = ask(rig, path, engine, precision)
    drive.until(future.done)
    success, message = answer(rig, future)
    assert not success
    assert reason in message
    assert "\n" not in message
    values = rig.values("engine")
    assert (values["engine"], values["bundle"]) == ("openvino", str(toy_bundle))
    assert (values["state"], values["degraded"]) == ("active", "no")
    # Of the test before, a node of the same name may be known for a moment.
    rig.wait_for(lambda: rig.diagnostics["engine"].level == b"\x00", "an engine without a warning")
    assert parameters(rig) == before
    assert classes_of(drive.frame()) == TOY_ANSWER
    rig.wait_for_value("front", "frames_processed", str(drive.sent))
    # And the service still works.
    assert load(rig, engine="onnxruntime")[0]
    assert classes_of(drive.frame()) == TOY_ANSWER


def test_the_reason_of_a_failed_load_is_in_the_diagnostics(start_node, tmp_path):
    rig = start_node()
    assert rig.configure()
    _, message = load(rig, damaged(tmp_path / "damaged.mtc"))
    assert settled(rig, message)["swap"] == f"failed: {message}"


def test_a_switch_whose_frame_does_not_end_changes_nothing(
    start_node, toy_bundle, other_bundle, monkeypatch
):
    made: list[Any] = []

    def kept(selection: Selection, deadline: Deadline) -> Perceiver:
        made.append(open_perceiver(selection, deadline))
        return made[-1]

    monkeypatch.setattr(mtc_perception.runtime.host, "open_perceiver", kept)
    rig = start_node(engine="openvino")
    assert rig.configure()
    before = parameters(rig)
    slots, host = rig.configured.slots, rig.configured.host
    slots.pause = partial(slots.pause, 0.2)
    slots.open()
    slots.put(Frame(0, None, stamp_ns=0, received_ns=0, arrived_ns=0))
    assert slots.take() is not None
    success, message = load(rig, other_bundle)
    assert not success
    assert "did not finish an image in 0.2 s" in message
    assert host.perceiver.bundle.path == toy_bundle
    assert parameters(rig) == before
    assert is_closed(made[0].engine)
    assert not is_closed(host.perceiver.engine)
    slots.finish(0, Outcome.DROPPED)
    assert load(rig, other_bundle)[0]


def test_a_switch_that_fails_ends_the_pause(start_node, toy_bundle, other_bundle, monkeypatch):
    drive = Drive(start_node(engine="openvino", reliability="reliable"))
    host = drive.rig.configured.host
    taken: list[Perceiver] = []

    def fail(_: Selection, perceiver: Perceiver) -> None:
        taken.append(perceiver)
        raise RuntimeError("no switch today")

    with monkeypatch.context() as patch:
        patch.setattr(host, "switch", fail)
        assert load(drive.rig, other_bundle) == (False, "RuntimeError: no switch today")
    assert is_closed(taken[0].engine)
    assert classes_of(drive.frame()) == TOY_ANSWER
    assert load(drive.rig, other_bundle)[0]
    assert classes_of(drive.frame()) == OTHER_ANSWER


def refused_parameters(rig: Rig) -> str:
    rig.node.add_on_set_parameters_callback(
        lambda _: SetParametersResult(successful=False, reason="not while driving")
    )
    return "bundle, engine, precision stay as they were: not while driving"


def failing_parameters(rig: Rig) -> str:
    def broken(_: Any) -> SetParametersResult:
        raise RuntimeError("somebody else's mistake")

    rig.node.add_on_set_parameters_callback(broken)
    return "RuntimeError: somebody else's mistake"


def unusable_publisher(rig: Rig) -> str:
    rig.configured.cameras[0]._label_info = rig.node.create_publisher(Image, "other", 1)
    return "TypeError: "


@pytest.mark.fault(
    area="lifecycle",
    row="after a switch of engines, parameters or class names cannot be adapted",
    answer="The new engine stays; the answer names the problem.",
    diagnostics="swap is done, with the problem.",
)
@pytest.mark.parametrize("spoil", [refused_parameters, failing_parameters, unusable_publisher])
def test_what_fails_after_the_switch_does_not_call_it_failed(start_node, other_bundle, spoil):
    drive = Drive(start_node(engine="openvino", reliability="reliable"))
    rig = drive.rig
    former = rig.configured.host.perceiver.engine
    problem = spoil(rig)
    success, message = load(rig, other_bundle)
    assert success, message
    assert f"; but {problem}" in message
    assert settled(rig, message)["bundle"] == str(other_bundle)
    assert classes_of(drive.frame()) == OTHER_ANSWER
    assert is_closed(former)


def test_a_request_ends_though_nobody_can_be_told(start_node, toy_bundle, other_bundle):
    rig = start_node(engine="openvino")
    assert rig.configure()
    service = rig.node._engine_service
    tell = service._on_change

    def broken() -> None:
        raise RuntimeError("no more publishers")

    service._on_change = broken
    success, message = load(rig, other_bundle)
    assert success, message
    success, message = load(rig, "nowhere.mtc")
    assert not success
    assert "no such bundle" in message
    service._on_change = tell
    success, message = load(rig, toy_bundle)
    assert success, message
    assert settled(rig, message)["bundle"] == str(toy_bundle)


def test_an_unconfigured_node_says_what_to_do(start_node, other_bundle):
    rig = start_node()
    success, message = load(rig, other_bundle)
    assert not success
    assert "set the parameters" in message

"""Another engine at run time, over real DDS: under a stream of frames, in every state."""

import threading
from itertools import pairwise
from typing import Any

import pytest
from vision_msgs.msg import Detection2DArray, LabelInfo

from mtc_perception.runtime.frames import Frame, Outcome
from support.accounts import check_accounts
from support.checkout import SHIPPED
from support.node_rig import image_message, solid
from support.swap_rig import (
    LATCHED,
    OTHER_ANSWER,
    OTHER_CLASSES,
    RELIABLE,
    TOY_ANSWER,
    Drive,
    answer,
    ask,
    classes_of,
    load,
    parameters,
    settled,
    thread_names,
    wait_for_labels,
)

pytestmark = pytest.mark.dds


def test_to_another_network_on_another_engine_and_back_under_a_stream(
    start_node, toy_bundle, other_bundle
):
    drive = Drive(start_node(engine="openvino", reliability="reliable"))
    rig = drive.rig
    assert classes_of(drive.frame()) == TOY_ANSWER

    there = ask(rig, other_bundle, "onnxruntime", "fp32")
    drive.until(there.done)
    success, message = answer(rig, there)
    assert success, message
    assert "onnxruntime" in message
    assert classes_of(drive.frame()) == OTHER_ANSWER
    values = settled(rig, message)
    assert values["engine"] == "onnxruntime"
    assert values["bundle"] == str(other_bundle)
    assert values["score_threshold"] == "0.100"
    assert values["swap"] == f"done: {message}"
    assert parameters(rig) == {
        "bundle": str(other_bundle),
        "engine": "onnxruntime",
        "precision": "fp32",
    }
    wait_for_labels(rig, drive.labels, OTHER_CLASSES)
    assert drive.labels[-1].threshold == pytest.approx(0.1)

    back = ask(rig, toy_bundle, "openvino", "auto")
    drive.until(back.done)
    assert answer(rig, back)[0]
    assert classes_of(drive.frame()) == TOY_ANSWER
    wait_for_labels(rig, drive.labels, ["vehicle", "truck"])

    # Whole frames of one network or of the other, each network in one piece, and none lost.
    answers = [classes_of(one) for one in drive.detections]
    assert all(one in (TOY_ANSWER, OTHER_ANSWER) for one in answers)
    changes = sum(one != other for one, other in pairwise(answers))
    assert changes == 2
    rig.wait_for_value("front", "frames_processed", str(drive.sent))
    assert check_accounts(rig.values("front")).received == drive.sent
    assert "engine loader" not in thread_names()


def test_what_is_left_out_stays_as_it_is(start_node, other_bundle):
    rig = start_node(engine="openvino")
    assert rig.configure()
    success, message = load(rig, other_bundle)
    assert success
    values = settled(rig, message)
    assert (values["engine"], values["network"]) == ("openvino", "other 1")
    success, message = load(rig, engine="onnxruntime")
    assert success
    values = settled(rig, message)
    assert (values["engine"], values["network"]) == ("onnxruntime", "other 1")
    # The next configure starts what ran last.
    assert rig.cleanup()
    assert rig.configure()
    values = settled(rig, "none")
    assert (values["engine"], values["network"]) == ("onnxruntime", "other 1")


def test_auto_stays_auto_and_chooses_anew(start_node, other_bundle):
    rig = start_node()
    assert rig.configure()
    success, message = load(rig, other_bundle)
    assert success
    assert settled(rig, message)["engine"] == "openvino"
    asked = {"bundle": str(other_bundle), "engine": "auto", "precision": "auto"}
    assert parameters(rig) == asked
    # What is left out is as the parameters say, not as what runs.
    success, message = load(rig, engine="onnxruntime")
    assert success
    assert parameters(rig) == asked | {"engine": "onnxruntime"}
    success, message = load(rig, engine="auto")
    assert success
    assert settled(rig, message)["engine"] == "openvino"
    assert parameters(rig) == asked


@pytest.mark.fault(
    area="lifecycle",
    row="load_engine is called while another one is loaded",
    answer="The second is refused: busy. The first one goes on.",
    diagnostics="swap is of the first.",
)
def test_a_second_request_is_refused_while_one_is_loading(start_node, toy_bundle):
    drive = Drive(start_node(engine="openvino", reliability="reliable"))
    rig = drive.rig
    first, second = ask(rig, SHIPPED), ask(rig, engine="onnxruntime")
    rig.wait_for_value("engine", "swap", "loading")  # so diagnostics live on meanwhile
    drive.until(lambda: first.done() and second.done())
    success, message = answer(rig, second)
    assert not success
    assert f"busy loading {SHIPPED}" in message
    success, message = answer(rig, first)
    assert success, message
    assert settled(rig, message)["bundle"] == str(SHIPPED)
    drive.frame()


def test_the_switch_waits_for_the_frame_under_way(start_node, toy_bundle, other_bundle):
    rig = start_node(engine="openvino")
    assert rig.configure()
    slots, host = rig.configured.slots, rig.configured.host
    slots.open()
    slots.put(Frame(0, None, stamp_ns=0, received_ns=0, arrived_ns=0))
    assert slots.take() is not None  # as the inference thread does
    waiting, pause = threading.Event(), slots.pause

    def announced() -> Any:
        waiting.set()
        return pause()

    slots.pause = announced
    future = ask(rig, other_bundle)
    rig.wait_for(waiting.is_set, "the end of the load")
    # Everything else goes on meanwhile, though an engine that hangs may take its time.
    for _ in range(3):
        assert rig.values("engine")["swap"].startswith("loading")
    assert parameters(rig)["bundle"] == str(toy_bundle)
    assert rig.set(max_detections=1) == ""
    assert rig.state() == "inactive"
    assert not future.done()
    assert host.perceiver.bundle.path == toy_bundle
    slots.finish(0, Outcome.DROPPED)
    assert answer(rig, future)[0]
    assert host.perceiver.bundle.path == other_bundle


def test_an_inactive_node_is_changed_too(start_node, other_bundle):
    rig = start_node(engine="openvino", reliability="reliable")
    assert rig.configure()
    assert load(rig, other_bundle)[0]
    assert rig.values("engine")["state"] == "inactive"
    assert rig.activate()
    results = rig.collect(Detection2DArray, "detections")
    labels = rig.collect(LabelInfo, "label_info", LATCHED)
    publish = rig.camera("image_raw", qos=RELIABLE)
    message = image_message(solid(255, 204, 0), "rgb8", rig)
    assert classes_of(rig.perceive(publish, message, results)) == OTHER_ANSWER
    wait_for_labels(rig, labels, OTHER_CLASSES)


def test_a_new_engine_takes_the_place_of_a_replacement(start_node):
    drive = Drive(start_node(engine="openvino", reliability="reliable"))
    rig = drive.rig
    rig.configured.host.perceiver.engine.close()
    drive.publish(image_message(solid(255, 204, 0), "rgb8", rig))
    rig.wait_for_value("engine", "degraded", "running on onnxruntime")
    success, message = load(rig, engine="openvino")
    assert success
    values = settled(rig, message)
    assert (values["engine"], values["degraded"]) == ("openvino", "no")
    assert classes_of(drive.frame()) == TOY_ANSWER
    # It may fail in its turn.
    rig.configured.host.perceiver.engine.close()
    drive.publish(image_message(solid(255, 204, 0), "rgb8", rig))
    rig.wait_for_value("engine", "degraded", "running on onnxruntime")

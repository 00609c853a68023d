"""Another engine at run time, over real DDS: under a stream of frames, refused, interrupted."""

import json
import signal
import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from mtc_perception_interfaces.srv import LoadEngine
from node_rig import PATIENCE_S, Client, Rig, image_message, solid
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import GetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from test_node_lifecycle import SHIPPED, client, running  # noqa: F401
from toy_bundle import write_toy_bundle
from vision_msgs.msg import Detection2DArray, LabelInfo

import mtc_perception.engine_loader
from mtc_perception.bundle import Thresholds
from mtc_perception.engine import Engine
from mtc_perception.engine_host import Loaded, Selection
from mtc_perception.engine_host import load as load_selection
from mtc_perception.errors import EngineError
from mtc_perception.frames import Frame, Outcome
from mtc_perception.messages import stamp_ns

pytestmark = pytest.mark.dds

RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
OTHER_CLASSES = ["car", "bus", "cyclist"]


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Differs from the toy bundle in everything that an output can show."""
    folder = tmp_path_factory.mktemp("swap")
    return write_toy_bundle(
        folder / "other.mtc",
        height=64,
        width=128,
        name="other",
        classes=OTHER_CLASSES,
        thresholds=Thresholds(score=0.1, drivable=0.5, lane=0.5),
    )


def ask(rig: Client, bundle: Path | str = "", engine: str = "", precision: str = "") -> Any:
    """Send the request; the future of its answer."""
    service = rig.create_client(LoadEngine, "/perception/load_engine")
    rig.wait_for(service.service_is_ready, "the service")
    request = LoadEngine.Request(bundle=str(bundle), engine=engine, precision=precision)
    return service.call_async(request)


def answer(rig: Client, future: Any) -> tuple[bool, str]:
    rig.wait_for(future.done, "an answer of load_engine", timeout_s=2 * PATIENCE_S)
    return future.result().success, future.result().message


def load(rig: Client, *arguments: Any, **named: Any) -> tuple[bool, str]:
    return answer(rig, ask(rig, *arguments, **named))


def settled(rig: Client, message: str) -> dict[str, str]:
    """What the diagnostics say once they tell of this answer: older ones may still be under way."""
    rig.wait_for_value("engine", "swap", message)
    return {entry.key: entry.value for entry in rig.diagnostics["engine"].values}


def parameters(rig: Client) -> dict[str, str]:
    service = rig.create_client(GetParameters, "/perception/get_parameters")
    names = ["bundle", "engine", "precision"]
    values = rig.call(service, GetParameters.Request(names=names)).values
    return {name: value.string_value for name, value in zip(names, values, strict=True)}


class Drive:
    """Sends a frame as soon as the one before has come out, so that none has a reason to drop."""

    def __init__(self, rig: Rig) -> None:
        rig.run()
        self.rig = rig
        self.detections = rig.collect(Detection2DArray, "detections")
        self.labels = rig.collect(LabelInfo, "label_info", LATCHED)
        self._publish = rig.camera("image_raw", qos=RELIABLE)
        self.sent = 0

    def frame(self) -> Any:
        message = image_message(solid(255, 204, 0), "rgb8", self.rig)
        self._publish(message)
        self.sent += 1
        self.rig.wait_for(lambda: len(self.detections) == self.sent, f"frame {self.sent}")
        assert stamp_ns(self.detections[-1].header) == stamp_ns(message.header)
        return self.detections[-1]

    def until(self, done: Callable[[], bool]) -> None:
        while not done():
            self.frame()


def classes_of(detections: Any) -> list[str]:
    return [detection.results[0].hypothesis.class_id for detection in detections.detections]


def is_closed(engine: Engine) -> bool:
    try:
        engine.start()
    except EngineError as error:
        return "the engine is closed" in str(error)
    engine.wait()
    return False


def thread_names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def wait_for_labels(rig: Client, labels: list[Any], names: list[str]) -> None:
    def there() -> bool:
        return bool(labels) and [one.class_name for one in labels[-1].class_map] == names

    rig.wait_for(there, f"label_info with {names}")


TOY_ANSWER = ["vehicle", "truck", "vehicle"]  # scores 0.6, 0.3, 0.2
OTHER_ANSWER = ["car", "bus", "car", "bus", "car"]  # and 0.15, 0.12


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
    assert int(rig.values("front")["frames_in"]) == drive.sent
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
    assert rig.diagnostics["engine"].level == b"\x00"
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
    slots, host = rig.node._configured.slots, rig.node._configured.host
    slots.open()
    slots.put(Frame(0, None, stamp_ns=0, received_ns=0, arrived_ns=0))
    assert slots.take() is not None  # as the inference thread does
    future = ask(rig, other_bundle)
    rig.wait_for_value("engine", "swap", "loading")
    rig.wait_for(lambda: "engine loader" not in thread_names(), "the end of the load")
    rig.spin_for(0.3)
    assert not future.done()
    assert host.bundle.path == toy_bundle
    slots.finish(0, Outcome.DROPPED)
    assert answer(rig, future)[0]
    assert host.bundle.path == other_bundle


def test_a_switch_whose_frame_does_not_end_changes_nothing(
    start_node, toy_bundle, other_bundle, monkeypatch
):
    made: list[Any] = []

    def kept(selection: Selection) -> Loaded:
        made.append(load_selection(selection))
        return made[-1]

    monkeypatch.setattr(mtc_perception.engine_loader, "load", kept)
    rig = start_node(engine="openvino")
    assert rig.configure()
    before = parameters(rig)
    slots, host = rig.node._configured.slots, rig.node._configured.host
    slots.pause = partial(slots.pause, 0.2)
    slots.open()
    slots.put(Frame(0, None, stamp_ns=0, received_ns=0, arrived_ns=0))
    assert slots.take() is not None
    success, message = load(rig, other_bundle)
    assert not success
    assert "did not finish an image in 0.2 s" in message
    assert host.bundle.path == toy_bundle
    assert parameters(rig) == before
    assert is_closed(made[0].engine)
    assert not is_closed(host.engine)
    slots.finish(0, Outcome.DROPPED)
    assert load(rig, other_bundle)[0]


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
    rig.node._configured.cameras[0]._label_info = rig.node.create_publisher(Image, "other", 1)
    return "TypeError: "


@pytest.mark.parametrize("spoil", [refused_parameters, failing_parameters, unusable_publisher])
def test_what_fails_after_the_switch_does_not_call_it_failed(start_node, other_bundle, spoil):
    drive = Drive(start_node(engine="openvino", reliability="reliable"))
    rig = drive.rig
    former = rig.node._configured.host.engine
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


def test_an_unconfigured_node_says_what_to_do(start_node, other_bundle):
    rig = start_node()
    success, message = load(rig, other_bundle)
    assert not success
    assert "set the parameters" in message


def test_a_node_that_is_cleaned_up_meanwhile_does_not_take_the_engine(start_node):
    rig = start_node()
    assert rig.configure()
    future = ask(rig, SHIPPED)
    rig.wait_for_value("engine", "swap", "loading")
    assert rig.cleanup()
    assert rig.configure()
    success, message = answer(rig, future)
    assert not success
    assert "cleaned up" in message
    rig.wait_for_value("engine", "network", "toy")


def test_a_node_whose_engine_fails_meanwhile_does_not_take_another(start_node):
    drive = Drive(start_node(engine="openvino", reliability="reliable", fallback="none"))
    rig = drive.rig
    future = ask(rig, SHIPPED)
    rig.wait_for_value("engine", "swap", "loading")
    rig.node._configured.host.engine.close()
    drive._publish(image_message(solid(255, 204, 0), "rgb8", rig))
    success, message = answer(rig, future)
    assert not success
    assert "failed while the engine was loading" in message
    rig.wait_for_value("engine", "failure", "parameter fallback is 'none'")
    assert rig.state() == "unconfigured"


def test_a_new_engine_takes_the_place_of_a_replacement(start_node):
    drive = Drive(start_node(engine="openvino", reliability="reliable"))
    rig = drive.rig
    rig.node._configured.host.engine.close()
    drive._publish(image_message(solid(255, 204, 0), "rgb8", rig))
    rig.wait_for_value("engine", "degraded", "running on onnxruntime")
    success, message = load(rig, engine="openvino")
    assert success
    values = settled(rig, message)
    assert (values["engine"], values["degraded"]) == ("openvino", "no")
    assert classes_of(drive.frame()) == TOY_ANSWER
    # It may fail in its turn.
    rig.node._configured.host.engine.close()
    drive._publish(image_message(solid(255, 204, 0), "rgb8", rig))
    rig.wait_for_value("engine", "degraded", "running on onnxruntime")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_an_engine_is_loading_ends_the_node_cleanly(
    client,  # noqa: F811
    toy_bundle,
    number,
):
    with running(toy_bundle) as node:
        assert client.configure()
        assert client.activate()
        ask(client, SHIPPED)
        client.wait_for(lambda: node.said("load_engine: loading"), "the beginning of the load")
        code, text = node.end(number)
    assert code == 0, text
    assert "Traceback" not in text
    assert "Warning" not in text


def test_shutdown_while_an_engine_is_loading(client, toy_bundle):  # noqa: F811
    with running(toy_bundle) as node:
        assert client.configure()
        future = ask(client, SHIPPED)
        client.wait_for(lambda: node.said("load_engine: loading"), "the beginning of the load")
        assert client.change(Transition.TRANSITION_INACTIVE_SHUTDOWN)
        success, message = answer(client, future)
        assert not success
        assert "cleaned up" in message
        assert client.state() == "finalized"
        code, text = node.end(signal.SIGINT)
    assert code == 0, text
    assert "Traceback" not in text

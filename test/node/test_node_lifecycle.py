"""The node as a process of its own: every state, and a clean end from each of them."""

import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image

from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.engine import Network
from mtc_perception.engines.process_trial import RAN, TrialMemory
from mtc_perception.runtime.worker import HANG_S
from support.accounts import check_accounts
from support.hanging_bundle import ALWAYS, write_hanging_bundle
from support.node_process import running
from support.node_rig import image_message, solid
from support.swap_rig import ask, load, settled
from support.toy_bundle import toy_model, write_toy_bundle

pytestmark = pytest.mark.dds


@pytest.fixture(scope="module")
def hanging(tmp_path_factory):
    """A bundle whose network hangs in white images."""
    return write_hanging_bundle(tmp_path_factory.mktemp("hanging") / "hanging.mtc")


@pytest.fixture(scope="module")
def endless(hanging):
    """A bundle beside it whose network hangs in every image, that of its trial too."""
    return write_hanging_bundle(hanging.with_name("endless.mtc"), ALWAYS)


def bring(client, node, state, endless):
    """Bring the node's process into a state."""
    client.wait_for_node()
    if state == "configuring":
        client.begin(Transition.TRANSITION_CONFIGURE)
        client.wait_for(lambda: children(node), "a trial under way")
    if state in ("inactive", "active", "swapping", "hanging"):
        assert client.configure()
    if state in ("active", "swapping", "hanging"):
        assert client.activate()
        results = client.collect(Image, "drivable_mask")
        publish = client.camera("image_raw")

        def flowing() -> bool:
            publish(image_message(solid(255, 0, 0), "rgb8", client))
            return len(results) >= 3

        client.wait_for(flowing, "images flowing")
    if state == "swapping":
        # The trials of the engines to fall back to are another matter.
        client.wait_for(lambda: not children(node), "the end of earlier trials")
        ask(client, endless)
        client.wait_for(lambda: children(node), "a trial under way")
    if state == "hanging":

        def hung() -> bool:
            publish(image_message(solid(255, 255, 255), "rgb8", client))
            return "has not answered" in client.diagnostics["engine"].message

        client.wait_for(hung, "an engine that hangs")


def children(node):
    return psutil.Process(node.process.pid).children(recursive=True)


def end(node, number):
    """Exit code and words of the node's process, of which no process is left within 2 s."""
    left = children(node)
    began_s = time.monotonic()
    code, text = node.end(number)
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive
    assert time.monotonic() - began_s < 8.0  # 2 s, but for a machine busy with other tests
    return code, text


@pytest.mark.fault(
    area="signal",
    row="SIGINT or SIGTERM in any state, while a load or an engine hangs too",
    answer="The process ends within 2 s with exit code 0, and its trials with it.",
    diagnostics="Nothing is logged as an error, but an image that hangs.",
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "state", ["unconfigured", "configuring", "inactive", "active", "swapping", "hanging"]
)
def test_signals_end_the_node_cleanly_in_every_state(client, hanging, endless, state, number):
    with running(endless if state == "configuring" else hanging) as node:
        bring(client, node, state, endless)
        code, text = end(node, number)
    assert code == 0, text
    assert "Traceback" not in text
    assert "Warning" not in text
    assert ("ERROR" in text) == (state == "hanging")


@pytest.mark.fault(
    area="signal",
    row="SIGKILL in any state",
    answer="No process of the node is left, and the next start works.",
    diagnostics="Nothing.",
)
@pytest.mark.parametrize("state", ["configuring", "active", "swapping", "hanging"])
def test_a_node_that_is_killed_leaves_no_process(client, hanging, endless, state):
    with running(endless if state == "configuring" else hanging) as node:
        bring(client, node, state, endless)
        assert end(node, signal.SIGKILL)[0] == -signal.SIGKILL


SLOW = """
import sys, threading, time
from mtc_perception.engines.openvino import OpenVinoEngine
from mtc_perception.node.node import main
wait = OpenVinoEngine.wait
def slow(engine):
    if threading.current_thread().name == "inference":
        time.sleep(0.7)
    return wait(engine)
OpenVinoEngine.wait = slow
sys.exit(main())
"""
"""A node whose real engine takes its time, but in its warm-up."""


@pytest.mark.slow
@pytest.mark.fault(
    area="signal",
    row="the process is stopped while its engine works, and continued (SIGSTOP, SIGCONT)",
    answer="The image is answered: no engine is blamed for the time in which nothing ran.",
    diagnostics="Silence meanwhile; then as before.",
)
def test_a_process_that_was_stopped_goes_on(client, toy_bundle):
    with running(toy_bundle, ("-c", SLOW)) as node:
        assert client.configure()
        assert client.activate()
        results = client.collect(Image, "drivable_mask")
        publish = client.camera("image_raw")
        for _ in range(10):  # the next one is under way at once
            publish(image_message(solid(255, 0, 0), "rgb8", client))
            client.spin_for(0.1)
        node.process.send_signal(signal.SIGSTOP)
        time.sleep(HANG_S + 0.5)
        node.process.send_signal(signal.SIGCONT)
        client.wait_for_value("front", "frames_waiting", "0")
        assert len(results) == check_accounts(client.values("front")).processed >= 2
        assert client.values("engine")["degraded"] == "no"


@pytest.mark.fault(
    area="signal",
    row="SIGTERM while a network that passed its trial once hangs as it is loaded",
    answer="The process ends within 2 s with exit code 0: what hangs in it is left behind.",
    diagnostics="state is configuring, with the seconds, until then.",
)
def test_a_signal_ends_a_load_that_hangs_in_the_process(client, endless):
    network = Network.of(read_bundle(endless), "fp32")
    memories = [TrialMemory(network, name) for name in ("openvino", "onnxruntime")]
    for memory in memories:
        assert memory.write("outcome", RAN) == ""
    with running(endless) as node:
        client.wait_for_node()
        client.begin(Transition.TRANSITION_CONFIGURE)
        client.wait_for_value("engine", "state", f"configuring: loading {endless} on auto, 1 s")
        code, text = end(node, signal.SIGTERM)
    for memory in memories:
        memory.record.unlink()
    assert code == 0, text
    assert "Traceback" not in text


@pytest.mark.fault(
    area="bundle",
    row="a network that never ends is to be configured or loaded",
    answer="Its trial is ended at half the time for loading, and it is refused.",
    diagnostics="state is configuring, then the engine is ERROR with the failure.",
)
def test_a_network_that_never_ends_is_refused_in_time(start_node, toy_bundle, endless, monkeypatch):
    for module in ("node.node", "runtime.host"):
        monkeypatch.setattr(f"mtc_perception.{module}.LOAD_S", 3.0)
    rig = start_node(bundle=str(endless))
    began_s = time.monotonic()
    future = rig.begin(Transition.TRANSITION_CONFIGURE)
    rig.wait_for_value("engine", "state", "configuring: loading")
    rig.wait_for(future.done, "the end of configure")
    assert not future.result().success
    assert time.monotonic() - began_s < 6.0
    rig.wait_for_value("engine", "failure", "openvino: does not finish in")
    assert rig.set(bundle=str(toy_bundle)) == ""
    assert rig.configure()
    for _ in range(2):  # and nothing stays busy
        success, message = load(rig, endless)
        assert not success
        assert "does not finish in" in message
    assert settled(rig, message)["bundle"] == str(toy_bundle)


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


TWICE = """
import signal, sys
from mtc_perception.node import node
def started():
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.raise_signal(signal.SIGTERM)
        print("not interrupted", file=sys.stderr)
node.PerceptionNode = started
sys.exit(node.main())
"""
"""A node that gets a second signal while it unwinds from the first one."""


def test_a_second_signal_interrupts_nothing():
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "not interrupted\n")


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


def remove(bundle):
    shutil.rmtree(bundle)
    return "no such bundle"


def cut_off(bundle):
    os.truncate(bundle / "model.onnx", 1000)
    return "model.onnx is damaged"


def exchange_the_network(bundle):
    (bundle / "model.onnx").write_bytes(toy_model(96, 160, gain=0.5))
    return "model.onnx is damaged"


def put_a_file_in_its_place(bundle):
    shutil.rmtree(bundle)
    bundle.write_text("not a bundle")
    return "neither a bundle directory nor a zip file"


@pytest.mark.fault(
    area="bundle",
    row="the bundle or a file of it is removed, cut off or replaced while the node runs",
    answer="The network that runs goes on; load_engine and the next configure are refused.",
    diagnostics="swap is failed, then the engine is ERROR, with the file and what is wrong.",
)
@pytest.mark.parametrize("change", [remove, cut_off, exchange_the_network, put_a_file_in_its_place])
def test_a_bundle_that_changes_while_the_node_runs(start_node, toy_bundle, tmp_path, change):
    bundle = shutil.copytree(toy_bundle, tmp_path / "own.mtc")
    rig = start_node(bundle=str(bundle))
    rig.run()
    results = rig.collect(Image, "drivable_mask")
    publish = rig.camera("image_raw")
    reason = change(bundle)
    rig.perceive(publish, image_message(solid(255, 0, 0), "rgb8", rig), results)
    success, message = load(rig, engine="onnxruntime")
    assert not success
    assert reason in message
    rig.perceive(publish, image_message(solid(255, 0, 0), "rgb8", rig), results)
    assert rig.deactivate()
    assert rig.cleanup()
    assert not rig.configure()
    rig.wait_for_value("engine", "failure", reason)


def limit_memory(node, more_mib):
    """Let the node's process have so much more address space than it has now."""
    bytes_ = psutil.Process(node.process.pid).memory_info().vms + more_mib * 2**20
    resource.prlimit(node.process.pid, resource.RLIMIT_AS, (bytes_, resource.RLIM_INFINITY))


@pytest.mark.fault(
    area="memory",
    row="the node is configured with less memory than its network needs (ulimit -v)",
    answer="configure fails; it works as soon as there is enough.",
    diagnostics="The engine is ERROR with the reason; one line is logged.",
)
def test_configure_with_too_little_memory(client, toy_bundle):
    with running(toy_bundle) as node:
        client.wait_for_value("engine", "state", "unconfigured")
        for more_mib in (0, 16, 32):
            limit_memory(node, more_mib)
            assert not client.configure()
            client.wait_for_value("engine", "failure", " ")
        limit_memory(node, 4096)
        assert client.configure()
        code, text = node.end(signal.SIGTERM)
    assert code == 0, text
    assert "Traceback" not in text
    assert text.count("[ERROR]") == text.count("cannot configure: ") == 3


@pytest.mark.fault(
    area="memory",
    row="memory runs out in DDS or ROS, as they receive an image",
    answer="The image is lost, or the process ends with exit code 2, to be started again.",
    diagnostics="The camera is ERROR: lost; or the process says in one line that memory is short.",
)
def test_images_that_are_larger_than_the_memory_left(client, toy_bundle):
    with running(toy_bundle, parameters=("autostart:=true",)) as node:
        results = client.collect(Image, "drivable_mask")
        publish = client.camera("image_raw")

        def answered() -> bool:
            publish(image_message(solid(255, 0, 0), "rgb8", client))
            return len(results) >= 3

        client.wait_for(answered, "answers")
        large = image_message(solid(255, 0, 0, 3000, 4000), "rgb8", client)  # 36 MB

        def ended() -> bool:
            limit_memory(node, next(limits_mib))
            publish(large)
            client.spin_for(0.3)
            return node.process.poll() is not None

        # Where there is room to receive it and none to hand it on depends on much.
        limits_mib = itertools.cycle(range(20, 80, 10))
        client.wait_for(ended, "the end of the process")
        code, text = node.end(signal.SIGTERM)
    assert code == 2, text
    assert "Traceback" not in text
    assert "error: there is not enough memory" in text


class Manager:
    """What nav2_lifecycle_manager does with a node, by the services it does it with; no bond."""

    def __init__(self, client):
        self._client = client

    def startup(self):
        return self._do("CONFIGURE", "inactive") and self.resume()

    def pause(self):
        return self._do("DEACTIVATE", "inactive")

    def resume(self):
        return self._do("ACTIVATE", "active")

    def reset(self):
        return self.pause() and self._do("CLEANUP", "unconfigured")

    def shutdown(self):
        return self.reset() and self._do("UNCONFIGURED_SHUTDOWN", "finalized")

    def _do(self, transition, state):
        number = getattr(Transition, f"TRANSITION_{transition}")
        return self._client.change(number) and self._client.state() == state


@pytest.mark.fault(
    area="lifecycle",
    row="Nav2's lifecycle manager starts, pauses, resets and shuts down the node, without a bond",
    answer="It follows; a start that fails leaves it unconfigured, and a later one works.",
    diagnostics="state follows.",
)
def test_a_lifecycle_manager_drives_the_node(client, toy_bundle, tmp_path):
    with running(tmp_path / "late.mtc") as node:
        manager = Manager(client)
        assert not manager.startup()
        assert client.state() == "unconfigured"
        shutil.copytree(toy_bundle, tmp_path / "late.mtc")
        assert manager.startup()
        assert manager.pause()
        assert manager.resume()
        assert manager.reset()
        assert manager.startup()
        assert manager.shutdown()
        code, text = node.end(signal.SIGINT)
    assert code == 0, text
    assert "Traceback" not in text


@pytest.mark.slow
@pytest.mark.fault(
    area="engine",
    row="an image makes every engine hang, one after the other",
    answer="Each is given up after 3 s; then the node is unconfigured, and can be ended.",
    diagnostics="The engine is ERROR all the time, at last with the failure.",
)
def test_a_network_that_hangs_on_every_engine(client, hanging, endless):
    with running(hanging) as node:
        bring(client, node, "hanging", endless)
        publish = client.camera("image_raw")

        def given_up() -> bool:
            publish(image_message(solid(255, 255, 255), "rgb8", client))
            return "no CPU engine is left" in client.diagnostics["engine"].message

        client.wait_for(given_up, "the end of the last engine")
        assert client.state() == "unconfigured"
        code, text = end(node, signal.SIGTERM)
    assert code == 0, text
    assert node.said("openvino failed: no answer in 3 s; running on onnxruntime")
    assert node.said("onnxruntime failed: no answer in 3 s; no CPU engine is left")

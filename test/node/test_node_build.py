"""Parameter `build_engine`: what a configure that builds tells, and how it ends.

Without a GPU there is nothing to build for, so where a build must run it is the real one of
TensorRT-RTX for another GPU, in place of the one for this machine's.
"""

import errno
import signal
from pathlib import Path

import psutil
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition

import mtc_perception.node.node
from mtc_perception.core.bundle import Variant, read_bundle, sha256_hex, write_bundle
from mtc_perception.engines.tensorrt.library import installed_flavours
from support import building_node
from support.building_node import build_for_ada
from support.gpu import missing_gpu, without_gpu
from support.node_process import running
from support.node_rig import Rig

pytestmark = pytest.mark.dds

needs_rtx = pytest.mark.skipif(
    "tensorrt_rtx" not in installed_flavours(), reason="tensorrt_rtx is not installed"
)
BUILDING = "building the TensorRT engine"


@pytest.fixture
def gpu_bundle(tmp_path: Path, toy_bundle: Path) -> Path:
    """The toy bundle, for TensorRT too."""
    toy = read_bundle(toy_bundle)
    model = toy.model_bytes("fp32")
    variant = Variant(
        file="model.onnx",
        sha256=sha256_hex(model),
        precision="fp32",
        engines=["tensorrt", "openvino", "onnxruntime"],
    )
    manifest = toy.manifest.model_copy(update={"variants": {"fp32": variant}})
    write_bundle(tmp_path / "gpu.mtc", manifest, {"model.onnx": model})
    return tmp_path / "gpu.mtc"


@without_gpu
def test_without_a_gpu_auto_warns_and_goes_on_to_the_cpu(start_node, gpu_bundle, capfd):
    rig = start_node(bundle=str(gpu_bundle), build_engine=True)
    assert rig.configure()
    rig.wait_for_value("engine", "engine", "openvino")
    assert missing_gpu() in rig.values("engine")["why"]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "is built" in line]
    assert "no TensorRT engine is built: " in line


def test_a_store_that_cannot_be_used_does_not_keep_auto_from_the_cpu(
    start_node, gpu_bundle, monkeypatch, capfd
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mtc_perception.node.node, "build_missing_engine", full)
    rig = start_node(bundle=str(gpu_bundle), build_engine=True)
    assert rig.configure()
    rig.wait_for_value("engine", "engine", "openvino")
    assert "no TensorRT engine is built: OSError: [Errno 28] No space" in capfd.readouterr().err


@without_gpu
def test_without_a_gpu_tensorrt_is_refused_with_the_reason(start_node, gpu_bundle):
    rig = start_node(bundle=str(gpu_bundle), engine="tensorrt", build_engine=True)
    assert not rig.configure()
    reason = missing_gpu() if installed_flavours() else "installed"
    rig.wait_for_value("engine", "failure", reason)


def test_a_bundle_that_is_not_for_tensorrt_builds_nothing(start_node, capfd):
    rig = start_node(engine="openvino", build_engine=True)
    assert rig.configure()
    assert "TensorRT" not in capfd.readouterr().err


@needs_rtx
def test_progress_of_a_build_is_in_the_diagnostics(start_node, monkeypatch):
    monkeypatch.setattr(mtc_perception.node.node, "build_missing_engine", build_for_ada)
    rig: Rig = start_node(build_engine=True)
    messages = rig.collect(DiagnosticArray, "/diagnostics")
    assert rig.configure()
    rig.wait_for_value("engine", "state", "inactive")
    states = [message.status[0].message for message in messages]
    assert any(state.startswith(f"configuring: {BUILDING}, ") for state in states), states


@pytest.mark.fault(
    area="signal",
    row="SIGINT or SIGTERM while a TensorRT engine is built",
    answer="The build is ended and the process with it, exit code 0.",
    diagnostics="state is configuring, with the progress, until then.",
)
@needs_rtx
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_build_and_the_node(client, toy_bundle, number):
    with running(toy_bundle, (building_node.__file__,)) as node:
        client.wait_for_node()
        client.begin(Transition.TRANSITION_CONFIGURE)
        client.wait_for(lambda: node.said(BUILDING), "the beginning of the build")
        # It is seen while it builds.
        assert ("perception", "/") in client.get_node_names_and_namespaces()
        # Between two builds there is none for a moment.
        children = psutil.Process(node.process.pid).children
        client.wait_for(children, "the building process")
        builders = children()
        code, text = node.end(number)
    assert code == 0, text
    assert "Traceback" not in text
    assert not any(psutil.pid_exists(builder.pid) for builder in builders)

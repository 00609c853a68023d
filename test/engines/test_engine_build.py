"""Engines that TensorRT-RTX really builds, without a GPU, and what it refuses."""

import platform
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from mtc_perception.core.bundle import Bundle, Variant, read_bundle, sha256_hex, write_bundle
from mtc_perception.core.engine import Network
from mtc_perception.engines.tensorrt import build as engine_build
from mtc_perception.engines.tensorrt.build import (
    BuildSettings,
    build_engine,
    build_variant,
    default_flavour,
    fitting_variants,
)
from mtc_perception.engines.tensorrt.build_process import PhaseProgress, short_reason, timings_file
from mtc_perception.engines.tensorrt.cuda import Device
from mtc_perception.engines.tensorrt.key import EngineKey, Profile
from mtc_perception.engines.tensorrt.library import installed_flavours
from mtc_perception.engines.tensorrt.store import EngineStore
from mtc_perception.util.errors import BundleError, EngineError
from support.checkout import ROOT
from support.gpu import without_gpu
from support.toy_bundle import MAX_DETECTIONS, toy_model, write_toy_bundle

HEIGHT, WIDTH = 96, 160
ADA = BuildSettings("tensorrt_rtx", ("sm89",))

needs_rtx = pytest.mark.skipif(
    "tensorrt_rtx" not in installed_flavours(), reason="tensorrt_rtx is not installed"
)


def toy_network(**changes: Any) -> Network:
    return Network(toy_model(HEIGHT, WIDTH, **changes), "fp32", HEIGHT, WIDTH, MAX_DETECTIONS)


def uint8_transpose() -> bytes:
    """A graph that begins with what TensorRT does not do to bytes."""
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2], name="turn"),
            helper.make_node("Cast", ["turned"], ["floats"], to=TensorProto.FLOAT),
        ],
        "bytes",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])],
        [helper.make_tensor_value_info("floats", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def bfloat16_squares() -> bytes:
    """A graph that computes in bfloat16."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["floats"], ["short"], to=TensorProto.BFLOAT16),
            helper.make_node("Mul", ["short", "short"], ["squares"]),
            helper.make_node("Cast", ["squares"], ["answer"], to=TensorProto.FLOAT),
        ],
        "bfloat16",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, HEIGHT, WIDTH, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_set_up_installs_what_builds() -> None:
    """Whoever runs `make test` runs the builds below; they are skipped elsewhere only."""
    if (ROOT / ".venv" / ".mtc" / "tensorrt").is_file() and platform.machine() == "x86_64":
        assert "tensorrt_rtx" in installed_flavours()


@needs_rtx
def test_an_engine_knows_what_it_is() -> None:
    network = toy_network()
    told: list[float] = []
    built = build_engine(network, ADA, lambda _phase, fraction: told.append(fraction))
    assert built.engine.startswith(b"vtrt")
    assert built.key == EngineKey(
        model_sha256=sha256_hex(network.model),
        precision="fp32",
        profile=Profile(1, HEIGHT, WIDTH),
        flavour="tensorrt_rtx",
        version=built.key.version,
        gpu="",
        multiprocessors=0,
        memory_mib=0,
        compute_capability=("sm89",),
    )
    assert built.key.version.startswith("1.")
    assert [tensor["name"] for tensor in built.about["inputs"]] == ["image"]
    assert {tensor["name"]: tensor["dtype"] for tensor in built.about["outputs"]} == {
        "boxes": "fp32",
        "scores": "fp32",
        "labels": "int64",
        "drivable": "uint8",
        "lane": "uint8",
    }
    assert built.about["inputs"][0]["shape"] == [1, HEIGHT, WIDTH, 3]
    assert told == sorted(told)
    assert all(0.0 <= fraction <= 1.0 for fraction in told)


@needs_rtx
@pytest.mark.fault(
    area="store",
    row="an engine is built where one for another GPU, precision or batch is",
    answer="Both are kept, each under its key.",
    diagnostics="`mtc-engine list` shows both.",
)
def test_an_engine_for_something_else_is_another_engine(tmp_path: Path) -> None:
    store = EngineStore(tmp_path)
    for target in ("sm89", "sm86", "sm89"):
        built = build_engine(toy_network(), BuildSettings("tensorrt_rtx", (target,)))
        store.put(built.key, built.engine, built.about)
    capabilities = sorted(entry.key.compute_capability for entry in store.entries())
    assert capabilities == [("sm86",), ("sm89",)]
    assert len([*store.root.glob("*.engine")]) == 2


@needs_rtx
def test_one_engine_for_several_gpus_is_found_on_each(tmp_path: Path) -> None:
    path = write_toy_bundle(tmp_path / "toy.mtc", HEIGHT, WIDTH)
    bundle = with_model(path, toy_model(HEIGHT, WIDTH))
    store = EngineStore(tmp_path / "store")
    settings = BuildSettings("tensorrt_rtx", ("sm89", "sm86", "sm89"))
    built, where = build_variant(bundle, "fp32", settings, store)
    assert built.key.compute_capability == ("sm86", "sm89")
    assert where.read_bytes() == built.engine
    for capability in ("sm86", "sm89"):
        wanted = EngineKey(
            **{
                **vars(built.key),
                "gpu": "NVIDIA Some GPU",
                "multiprocessors": 84,
                "memory_mib": 16_000,
                "compute_capability": (capability,),
            }
        )
        assert store.find(wanted) == built.engine
    (entry,) = store.entries()
    assert entry.about["bundle"] == "toy.mtc"
    assert entry.about["seconds"] > 0
    assert len([*store.root.glob("*.engine")]) == 1


@needs_rtx
def test_an_open_batch_gets_one_fixed_profile() -> None:
    settings = BuildSettings("tensorrt_rtx", ("sm89",), batch=2)
    built = build_engine(toy_network(batch="N"), settings)
    assert built.key.profile == Profile(2, HEIGHT, WIDTH)
    with pytest.raises(EngineError, match="the graph takes 1 image at a time, not 2"):
        build_engine(toy_network(), settings)


@needs_rtx
def test_a_workspace_limit_is_taken() -> None:
    settings = BuildSettings("tensorrt_rtx", ("sm80",), workspace_mib=64)
    assert build_engine(toy_network(), settings).key.compute_capability == ("sm80",)


@needs_rtx
@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (uint8_transpose(), r"the parser refuses node turn \(Transpose\): .*has type UInt8"),
        (b"\x3a\x03\x5a\x01\x80", "the parser refuses the graph: "),
    ],
)
def test_what_the_parser_refuses_is_one_line_with_its_reason(graph: bytes, words: str) -> None:
    with pytest.raises(EngineError, match=f"^TensorRT-RTX for sm89, fp16: {words}") as caught:
        build_engine(Network(graph, "fp16", HEIGHT, WIDTH, MAX_DETECTIONS), ADA)
    assert "\n" not in str(caught.value)
    assert "/_src/" not in str(caught.value)


@needs_rtx
def test_what_the_builder_refuses_is_one_line_with_its_reason() -> None:
    """Turing has no matrix products in float32."""
    model = onnx.load_model_from_string(toy_model(HEIGHT, WIDTH))
    weights = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32) * 0.5, "weights")
    model.graph.initializer.append(weights)
    for node in model.graph.node:
        if "boxes" in node.output:
            node.output[0] = "raw_boxes"
    model.graph.node.append(helper.make_node("MatMul", ["raw_boxes", "weights"], ["boxes"]))
    network = Network(model.SerializeToString(), "fp32", HEIGHT, WIDTH, MAX_DETECTIONS)
    with pytest.raises(EngineError, match=r"the network: Cannot compile .*FP32 GEMM is not"):
        build_engine(network, BuildSettings("tensorrt_rtx", ("sm75",)))
    assert build_engine(network, ADA).about["products"] == {"fp32": 1}


@needs_rtx
def test_turing_has_no_bfloat16() -> None:
    network = Network(bfloat16_squares(), "fp16", HEIGHT, WIDTH, MAX_DETECTIONS)
    with pytest.raises(EngineError, match=r"refuses the network: Cannot compile .*sm75.*: b16\.$"):
        build_engine(network, BuildSettings("tensorrt_rtx", ("sm75",)))
    assert build_engine(network, ADA).engine


@needs_rtx
@pytest.mark.parametrize(
    "path", sorted((ROOT / "models").glob("*.mtc")), ids=lambda path: path.stem
)
def test_the_shipped_networks_build_in_every_precision(path: Path) -> None:
    bundle = read_bundle(path)
    precisions = []
    for variant in fitting_variants(bundle):
        network = Network.of(bundle, variant)
        built = build_engine(network, ADA)
        assert built.key.precision == network.precision
        assert max(built.about["products"], key=built.about["products"].get) == network.precision
        precisions.append(network.precision)
    assert sorted(precisions) == ["fp16", "fp32", "int8"]


def test_targets_are_checked_before_anything_starts() -> None:
    with pytest.raises(EngineError, match="does not build for 'sm90'; choose current, sm75"):
        BuildSettings("tensorrt_rtx", ("sm90",))
    for flavour in ("tensorrt", "tensorrt_rtx"):
        with pytest.raises(EngineError, match="sm87 is Jetson Orin, whose engines are built on it"):
            BuildSettings(flavour, ("sm87",))
    with pytest.raises(EngineError, match="for the GPU of its own machine only: leave --target"):
        BuildSettings("tensorrt", ("sm89",))
    with pytest.raises(EngineError, match="current stands alone"):
        BuildSettings("tensorrt_rtx", ("sm89", "current"))
    assert default_flavour(("sm89",)) == "tensorrt_rtx"


@pytest.mark.skipif("tensorrt" in installed_flavours(), reason="tensorrt is installed")
def test_a_missing_library_is_named_with_where_to_get_it() -> None:
    with pytest.raises(EngineError, match=r"^TensorRT is not installed: .*pip install"):
        build_engine(toy_network(), BuildSettings("tensorrt"))


@needs_rtx
@without_gpu
def test_without_a_gpu_its_build_says_what_to_do_instead() -> None:
    with pytest.raises(EngineError, match=r"name the GPU to build for.*--flavour rtx --target sm"):
        build_engine(toy_network(), BuildSettings("tensorrt_rtx"))


@needs_rtx
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -SEGV $$", r"the builder crashes \(SIGSEGV\)$"),
        ("echo out of luck >&2; exit 3", "the builder fails: out of luck$"),
        ("exit 3", "the builder fails: exit code 3$"),
    ],
)
def test_a_builder_that_dies_is_an_error_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(engine_build.sys, "executable", str(python))
    with pytest.raises(EngineError, match=words):
        build_engine(toy_network(), ADA)


@needs_rtx
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    """Ctrl-C reaches command and builder; a kill only the command. Both are gone afterwards."""
    bundle = with_model(write_toy_bundle(tmp_path / "toy.mtc", HEIGHT, WIDTH), deep_model())
    store = tmp_path / "store"
    command = subprocess.Popen(
        [
            *(sys.executable, "-m", "mtc_perception.commands.engine", "build", str(bundle.path)),
            *("--target", "sm89", "--store", str(store)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    builder = building_process(command.pid)
    builder.suspend()  # now it takes as long as it has to
    if how == signal.SIGINT:
        builder.send_signal(how)
    command.send_signal(how)
    output, _ = command.communicate(timeout=30)
    assert command.returncode != 0
    assert "Traceback" not in output
    end_s = time.monotonic() + 10
    while builder.is_running() and builder.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end_s
        time.sleep(0.01)
    assert [*store.glob("*")] == []


def building_process(pid: int) -> psutil.Process:
    """The child of `pid`, once it has loaded TensorRT."""
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
        for child in psutil.Process(pid).children():
            if any("tensorrt" in Path(one.path).name for one in child.memory_maps()):
                return child
        time.sleep(0.01)
    raise AssertionError("no building process in 30 s")


def deep_model() -> bytes:
    """A graph that takes a second to build."""
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    weights = []
    for i in range(60):
        kernel = generator.standard_normal((32, 32 if i else 3, 3, 3)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(kernel, f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"y{i}"], pads=[1] * 4))
        nodes.append(helper.make_node(("Relu", "Tanh")[i % 2], [f"y{i}"], [f"x{i + 1}"]))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])
    last = helper.make_tensor_value_info("x60", TensorProto.FLOAT, [1, 32, HEIGHT, WIDTH])
    graph = helper.make_graph(nodes, "deep", [image], [last], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def with_model(path: Path, model: bytes) -> Bundle:
    """The bundle at `path` rewritten: its one network is `model`, for TensorRT."""
    manifest = read_bundle(path).manifest
    entry = manifest.variants["fp32"].model_copy(
        update={"engines": ["tensorrt"], "sha256": sha256_hex(model)}
    )
    changed = manifest.model_copy(update={"variants": {"fp32": entry}})
    write_bundle(path, changed, {entry.file: model})
    return read_bundle(path)


def test_variants_are_those_for_tensorrt(toy_bundle: Path) -> None:
    bundle = read_bundle(toy_bundle)
    entry = bundle.manifest.variants["fp32"]
    other = entry.model_copy(update={"file": "model.int8-trt.onnx", "precision": "int8"})

    def having(**engines: Variant) -> Bundle:
        names = {key.replace("_", "-"): value for key, value in engines.items()}
        manifest = bundle.manifest.model_copy(update={"variants": names})
        return Bundle(bundle.path, manifest)

    trt = {"engines": ["tensorrt"]}
    both = having(fp32=entry.model_copy(update=trt), int8_trt=other.model_copy(update=trt))
    assert fitting_variants(both) == ["fp32", "int8-trt"]
    assert fitting_variants(both, ["int8", "int8"]) == ["int8-trt"]
    with pytest.raises(BundleError, match="no fp16 variant for tensorrt; the bundle has fp32"):
        fitting_variants(both, ["fp16"])
    with pytest.raises(BundleError, match="no variant for tensorrt"):
        fitting_variants(having(fp32=entry.model_copy(update={"engines": ["openvino"]})))


def test_progress_of_nested_phases_only_rises() -> None:
    progress = PhaseProgress()
    assert progress.fraction == 0.0
    progress.start("build", None, 2)
    progress.start("tactics", "build", 4)
    progress.step("tactics", 0)
    assert progress.fraction == pytest.approx(0.125)
    progress.start("one tactic", "tactics", 2)
    progress.step("one tactic", 0)
    assert progress.fraction == pytest.approx(0.1875)
    progress.finish("one tactic")
    progress.finish("tactics")  # before its last step was told
    assert progress.fraction == pytest.approx(0.1875)
    progress.step("build", 0)
    assert progress.fraction == pytest.approx(0.5)
    progress.step("never begun", 3)
    progress.step("build", 1)
    progress.finish("build")
    assert progress.fraction == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("message", "short"),
    [
        (
            "ITensor::getDimensions: Error Code 4: API Usage Error (/Transpose: first input has"
            " type UInt8. In checkType at /_src/optimizer/common/nodeBase.cpp:456)",
            "/Transpose: first input has type UInt8.",
        ),
        (
            "IBuilder::buildSerializedNetwork: Error Code 1: Cuda Runtime (In generateForCurrent at"
            " /_src/runtime/core/cudaDeviceProfile.cpp:221 (cudaError 35: CUDA driver version is"
            " insufficient))",
            "cudaError 35: CUDA driver version is insufficient",
        ),
        (
            "IBuilder::build: Error Code 9: Internal Error ([pass.cpp:337: check_turing] FP32 GEMM"
            " is not supported.)",
            "FP32 GEMM is not supported.",
        ),
        ("something new\nover two lines", "something new over two lines"),
    ],
)
def test_reasons_without_places_in_nvidias_source(message: str, short: str) -> None:
    assert short_reason(message) == short


def test_timings_belong_to_one_gpu_and_version() -> None:
    small = Device("Orin", "sm87", multiprocessors=8, memory_mib=7_620)
    path = Path("folder/timings-Orin-8mp-7gib-10.3.0.cache")
    assert timings_file("folder", small, "10.3.0") == path
    for other in (replace(small, multiprocessors=16), replace(small, memory_mib=15_656)):
        assert timings_file("folder", other, "10.3.0") != path
    odd = replace(small, name="NVIDIA RTX 4090 / A")
    assert timings_file("folder", odd, "10.3.0") == Path(
        "folder/timings-NVIDIA-RTX-4090-A-8mp-7gib-10.3.0.cache"
    )
    assert timings_file(None, small, "10.3.0") is None
    assert timings_file("folder", None, "10.3.0") is None

import gc
import io
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtc_perception.core.bundle import Bundle, read_bundle
from mtc_perception.core.engine import Network, TensorInfo
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.engines.load import load_engine
from mtc_perception.engines.open import open_engine
from mtc_perception.engines.tensorrt import cuda
from mtc_perception.engines.tensorrt import engine as tensorrt
from mtc_perception.engines.tensorrt.build import BuildSettings, BuiltEngine, build_engine
from mtc_perception.engines.tensorrt.build_process import build
from mtc_perception.engines.tensorrt.key import Flavour
from mtc_perception.engines.tensorrt.library import (
    NAMES,
    import_library,
    installed_flavours,
    library_log,
)
from mtc_perception.engines.tensorrt.store import EngineStore
from mtc_perception.util.errors import BundleError, EngineError
from support.gpu import without_gpu
from support.toy_bundle import MAX_DETECTIONS, check_answers, toy_model, write_toy_bundle

HEIGHT, WIDTH = 96, 160
ADA = cuda.Device("NVIDIA GeForce RTX 4090", "sm89", multiprocessors=128, memory_mib=24_080)

needs_rtx = pytest.mark.skipif(
    "tensorrt_rtx" not in installed_flavours(), reason="TensorRT-RTX is not installed"
)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path) -> Bundle:
    """The toy bundle, for TensorRT too."""
    variant = read_bundle(toy_bundle).manifest.variants["fp32"]
    everywhere = variant.model_copy(update={"engines": ["tensorrt", "openvino"]})
    path = tmp_path_factory.mktemp("tensorrt") / "toy.mtc"
    return read_bundle(write_toy_bundle(path, HEIGHT, WIDTH, variants={"fp32": everywhere}))


@pytest.fixture(scope="session")
def network(toy: Bundle) -> Network:
    return Network.of(toy, "fp32")


@pytest.fixture(scope="session")
def built(network: Network) -> BuiltEngine:
    """The toy network for the GPUs of an Ada Lovelace, built without one."""
    return build_engine(network, BuildSettings("tensorrt_rtx", ("sm89",)))


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path)


@without_gpu
def test_a_machine_without_a_driver_is_passed_over(toy: Bundle) -> None:
    with pytest.raises(EngineError, match=r"^tensorrt: no NVIDIA driver on this machine$"):
        open_engine(toy, "tensorrt")
    engine, _, why, _ = open_engine(toy)
    assert why.endswith("passed over tensorrt: no NVIDIA driver on this machine")
    engine.close()


def absent(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_without_a_library_it_says_what_to_install(
    network: Network, store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch, "tensorrt", "tensorrt_rtx")
    with pytest.raises(EngineError, match=r"^neither TensorRT nor .* pip install tensorrt-rtx$"):
        tensorrt.stored_engine(network, ADA, store)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            'raise ImportError("libnvinfer.so.10: cannot open shared object file")',
            r"TensorRT cannot be imported \(libnvinfer.so.10: cannot open .*\); install tensorrt",
        ),
        ('__version__ = "8.6.1"', r"TensorRT 8\.6\.1 is not supported: install 10\.x or 11\.x"),
        ('__version__ = "100.1"', r"TensorRT 100\.1 is not supported"),
    ],
)
def test_a_broken_or_foreign_library_is_refused(
    tmp_path: Path,
    network: Network,
    store: EngineStore,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    reason: str,
) -> None:
    absent(monkeypatch, "tensorrt_rtx")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "tensorrt.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=reason):
        tensorrt.stored_engine(network, ADA, store)
    sys.modules.pop("tensorrt", None)


@needs_rtx
def test_an_engine_that_was_never_built_names_the_command(
    network: Network, store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch, "tensorrt")
    command = f"mtc-engine build {network.bundle} --precision fp32 --flavour rtx --target sm89"
    with pytest.raises(EngineError) as caught:
        tensorrt.stored_engine(network, ADA, store)
    assert str(caught.value) == f"no engine in {store.root}; build it: {command}"


@needs_rtx
def test_an_engine_is_found_for_its_gpu_library_and_network_only(
    network: Network, built: BuiltEngine, store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch, "tensorrt")
    path = store.put(built.key, built.engine, built.about)
    library, serialised = tensorrt.stored_engine(network, ADA, store)
    assert library.title == f"TensorRT-RTX {built.key.version}"
    assert serialised == built.engine

    blackwell = replace(ADA, name="NVIDIA GeForce RTX 5090", compute_capability="sm120")
    with pytest.raises(EngineError, match="compute_capability is sm89, needed is sm120; build it"):
        tensorrt.stored_engine(network, blackwell, store)
    hopper = replace(ADA, name="NVIDIA H200", compute_capability="sm90")
    with pytest.raises(EngineError, match=r"TensorRT-RTX does not support NVIDIA H200 \(sm90\)"):
        tensorrt.stored_engine(network, hopper, store)
    other = Network(toy_model(HEIGHT, WIDTH, gain=0.5), "fp32", HEIGHT, WIDTH, MAX_DETECTIONS)
    with pytest.raises(EngineError, match=r"model_sha256 is .*, needed is"):
        tensorrt.stored_engine(other, ADA, store)
    with monkeypatch.context() as newer:
        newer.setattr(library.module, "__version__", "1.999.0")
        with pytest.raises(EngineError, match=r"version is .*, needed is 1\.999\.0; build it"):
            tensorrt.stored_engine(network, ADA, store)
    path.write_bytes(built.engine[:-1])
    with pytest.raises(EngineError, match=r"is damaged, .*; build it again: mtc-engine build"):
        tensorrt.stored_engine(network, ADA, store)


@needs_rtx
def test_bytes_that_are_no_engine_are_refused_in_the_librarys_words(network: Network) -> None:
    library = import_library("tensorrt_rtx")
    with pytest.raises(EngineError) as caught:
        tensorrt.TensorRtEngine(network, library, ADA, b"not an engine at all" * 99)
    assert f"{library.title} cannot load the engine: " in str(caught.value)
    assert "serialization" in str(caught.value)
    assert f"; build it again: mtc-engine build {network.bundle} --precision" in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_rtx
def test_every_engine_of_a_process_hears_its_own_reasons(network: Network) -> None:
    """TensorRT keeps the first logger of a process, even after it is gone, and warns of others."""
    library = import_library("tensorrt_rtx")
    log = library_log(library)
    begin = log.mark()
    request = {
        "flavour": "tensorrt_rtx",
        "targets": ["sm89"],
        "batch": 1,
        "workspace_mib": None,
        "timings": None,
    }
    for graph, serialised in ((b"no graph", b"no engine" * 99), (b"none either", b"nor this" * 99)):
        with pytest.raises(EngineError, match=r"the parser refuses the graph: .*[Pp]arse"):
            build(request, graph, io.BytesIO(), io.StringIO())
        with pytest.raises(EngineError, match=r"cannot load the engine: .*serialization"):
            tensorrt.TensorRtEngine(network, library, ADA, serialised)
        gc.collect()
    assert library_log(import_library("tensorrt_rtx")) is log
    assert not [text for text in log.warnings(begin) if "logger" in text.lower()]
    assert log.errors(log.mark()) == []


@needs_rtx
@without_gpu
def test_a_real_engine_gets_as_far_as_the_missing_driver(
    network: Network, built: BuiltEngine
) -> None:
    with pytest.raises(EngineError, match=r"CUDA driver version is insufficient"):
        tensorrt.TensorRtEngine(network, import_library("tensorrt_rtx"), ADA, built.engine)


@pytest.mark.parametrize("flavour", installed_flavours())
def test_the_library_has_what_the_engine_asks_of_it(flavour: Flavour) -> None:
    trt = import_library(flavour).module
    for owner, names in {
        trt.Runtime: ["deserialize_cuda_engine"],
        trt.ICudaEngine: [
            "num_io_tensors",
            "get_tensor_name",
            "get_tensor_mode",
            "get_tensor_dtype",
            "get_tensor_shape",
            "create_execution_context",
        ],
        trt.IExecutionContext: ["set_tensor_address", "set_input_shape", "execute_async_v3"],
    }.items():
        assert [name for name in names if not hasattr(owner, name)] == []
    for kind in ("UINT8", "FLOAT", "INT32", "INT64"):
        member = trt.DataType.__members__[kind]
        assert np.dtype(tensorrt.numpy_name(member)) == np.dtype(trt.nptype(member))


def test_outputs_lie_apart_in_one_block() -> None:
    tensors = [
        TensorInfo("lane", "uint8", (None, 3, 7)),
        TensorInfo("labels", "int64", (1, 5)),
        TensorInfo("scores", "float32", (1, 5)),
        TensorInfo("boxes", "float32", (None, 5, 4)),
        TensorInfo("drivable", "uint8", (1, 3, 7)),
    ]
    offsets, size_bytes = tensorrt.place(tensors)
    assert [offset % 256 for offset in offsets.values()] == [0] * 5
    block = np.zeros(size_bytes, np.uint8)
    outputs = tensorrt.views(block, tensors)
    assert outputs.boxes.shape == (1, 5, 4)
    assert (outputs.labels.shape, outputs.labels.dtype) == ((1, 5), np.int64)
    for number, tensor in enumerate(tensors, 1):
        getattr(outputs, tensor.name)[:] = number
    for number, tensor in enumerate(tensors, 1):
        view = getattr(outputs, tensor.name)
        assert (view == number).all()
        assert view.ctypes.data - block.ctypes.data == offsets[tensor.name]


def unsupported(flavour: Flavour) -> str:
    """Why a library does not run engines on this machine's GPU; empty if it does."""
    try:
        tensorrt.check_supported(import_library(flavour), cuda.current_device())
    except EngineError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module", params=list(NAMES))
def gpu_engine(
    request: pytest.FixtureRequest, network: Network
) -> Iterator[tensorrt.TensorRtEngine]:
    """The toy network on this machine's GPU, with each library in turn."""
    if request.param not in installed_flavours():
        pytest.skip(f"{NAMES[request.param]} is not installed")
    if reason := unsupported(request.param):
        pytest.skip(reason)
    library, built = (
        import_library(request.param),
        build_engine(network, BuildSettings(request.param)),
    )
    engine = tensorrt.TensorRtEngine(network, library, cuda.current_device(), built.engine)
    yield engine
    engine.close()


@pytest.mark.gpu
def test_on_a_gpu_the_answers_are_right(gpu_engine: tensorrt.TensorRtEngine) -> None:
    assert "without a CUDA graph" not in gpu_engine.device
    rng = np.random.default_rng(1)
    for _ in range(5):
        frame = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        gpu_engine.input[0] = frame
        gpu_engine.start()
        check_answers(frame, gpu_engine.wait())


@pytest.mark.gpu
def test_on_a_gpu_images_are_prepared_like_on_the_host(
    gpu_engine: tensorrt.TensorRtEngine,
) -> None:
    assert "letterbox on the GPU" in gpu_engine.device
    rng = np.random.default_rng(2)
    for height, width in ((200, 300), (96, 160), (31, 17)):
        image = SourceImage(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "bgr")
        letterbox = Letterbox.fit(height, width, HEIGHT, WIDTH)
        expected = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        letterbox.write(image, expected)
        gpu_engine.prepare(image, letterbox)
        gpu_engine.start()
        outputs = gpu_engine.wait()
        for mask, channel in ((outputs.drivable, 0), (outputs.lane, 1)):
            assert np.abs(mask[0].astype(int) - expected[..., channel]).max() <= 1
    # What was prepared counts once; then the input does again.
    frame = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    gpu_engine.input[0] = frame
    gpu_engine.start()
    check_answers(frame, gpu_engine.wait())


@pytest.mark.gpu
def test_on_a_gpu_the_engine_serves_another_thread(gpu_engine: tensorrt.TensorRtEngine) -> None:
    frame = np.full((HEIGHT, WIDTH, 3), 7, np.uint8)

    def infer() -> None:
        # The letterbox is the driver's, which wants every thread to have the device's context.
        letterbox = Letterbox.fit(HEIGHT, WIDTH, HEIGHT, WIDTH)
        gpu_engine.prepare(SourceImage(frame, "rgb"), letterbox)
        gpu_engine.start()
        gpu_engine.wait()

    before = gpu_engine.wait()
    thread = threading.Thread(target=infer)
    thread.start()
    thread.join()
    after = gpu_engine.wait()
    check_answers(frame, after)
    assert np.shares_memory(before.drivable, after.drivable)


@pytest.mark.gpu
def test_on_a_gpu_a_closed_engine_says_so_and_its_buffers_stay_readable(
    gpu_engine: tensorrt.TensorRtEngine,
) -> None:
    outputs = gpu_engine.wait()
    gpu_engine.close()
    gpu_engine.close()
    assert outputs.boxes.shape == (1, MAX_DETECTIONS, 4)
    assert np.isfinite(outputs.boxes).all()
    for call in (gpu_engine.start, gpu_engine.wait):
        with pytest.raises(EngineError, match="closed"):
            call()


@pytest.mark.gpu
def test_on_a_gpu_the_store_is_the_way_to_an_engine(
    toy: Bundle, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTC_ENGINE_CACHE", str(tmp_path))
    flavours = [flavour for flavour in installed_flavours() if not unsupported(flavour)]
    if not flavours:
        pytest.skip("no TensorRT that supports this GPU is installed")
    with pytest.raises(EngineError, match="build it: mtc-engine build"):
        load_engine(network, "tensorrt")
    built = build_engine(network, BuildSettings(flavours[0]))
    EngineStore().put(built.key, built.engine, built.about)
    engine, _, why, _ = open_engine(toy)
    assert engine.name == "tensorrt"
    assert cuda.current_device().name in why
    engine.close()
    broken = Network(network.model, "fp32", HEIGHT, WIDTH, MAX_DETECTIONS + 1)
    with pytest.raises(BundleError, match="boxes must be"):
        load_engine(broken, "tensorrt")

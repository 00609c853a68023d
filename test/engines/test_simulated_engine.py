"""What the TensorRT engine makes of delays, failures and silence, on a simulated GPU."""

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtc_perception.commands.engine_bench import BLOCK, engine_ms, measure
from mtc_perception.core.bundle import Bundle, read_bundle
from mtc_perception.core.engine import Network
from mtc_perception.core.images import SourceImage
from mtc_perception.engines.open import open_engine
from mtc_perception.engines.tensorrt import cuda, device_letterbox
from mtc_perception.engines.tensorrt import engine as tensorrt
from mtc_perception.engines.tensorrt.library import TensorRtLibrary
from mtc_perception.engines.tensorrt.store import EngineStore
from mtc_perception.runtime.host import EngineHost
from mtc_perception.runtime.perceiver import Perceiver, Selection
from mtc_perception.util.errors import EngineError
from support.simulated_gpu import SimulatedGpu, SimulatedTensorRt, simulated_gpu
from support.toy_bundle import check_answers, write_toy_bundle

HEIGHT, WIDTH = 96, 160
ORIN = cuda.Device("Orin", "sm87", multiprocessors=8, memory_mib=7_620)
Load = Callable[[], tensorrt.TensorRtEngine]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path) -> Bundle:
    """The toy bundle, for TensorRT too."""
    variant = read_bundle(toy_bundle).manifest.variants["fp32"]
    everywhere = variant.model_copy(update={"engines": ["tensorrt", "openvino"]})
    path = tmp_path_factory.mktemp("simulated") / "toy.mtc"
    return read_bundle(write_toy_bundle(path, HEIGHT, WIDTH, variants={"fp32": everywhere}))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedGpu]:
    """A GPU that exists on the host only, whose driver launches no kernels."""

    def no_driver() -> Any:
        raise ImportError("no driver")

    monkeypatch.setattr(device_letterbox, "_driver", no_driver)
    with simulated_gpu() as gpu:
        yield gpu


@pytest.fixture
def trt(gpu: SimulatedGpu) -> SimulatedTensorRt:
    return SimulatedTensorRt(gpu, HEIGHT, WIDTH)


@pytest.fixture
def load(toy: Bundle, trt: SimulatedTensorRt) -> Load:
    library = TensorRtLibrary(trt, "tensorrt", "10.3.0")
    return lambda: tensorrt.TensorRtEngine(Network.of(toy, "fp32"), library, ORIN, b"engine")


def infer(engine: tensorrt.TensorRtEngine, value: int) -> None:
    frame = np.full((HEIGHT, WIDTH, 3), value, np.uint8)
    engine.input[0] = frame
    engine.start()
    check_answers(frame, engine.wait())


def test_two_engines_live_side_by_side(load: Load, trt: SimulatedTensorRt) -> None:
    first, second = load(), load()
    for value in (1, 2):
        infer(first, value)
        infer(second, value + 10)
    first.close()
    infer(second, 30)
    # What the library says of the second goes to the logger that came with the first.
    assert len(set(map(id, trt.loggers))) == 1
    trt.refusal = "no more\nmemory"
    with pytest.raises(EngineError, match=r"^TensorRT 10\.3\.0 failed to start: no more memory$"):
        load()
    assert "without a CUDA graph" not in second.device
    assert second.device.endswith("letterbox on the CPU (CUDA: no driver (cuModuleLoadData))")
    second.close()


def test_an_engine_of_another_gpu_as_tensorrt_takes_it_runs_and_says_so(
    load: Load, trt: SimulatedTensorRt
) -> None:
    trt.warning = "Some other thing."
    assert "warns" not in load().device
    trt.warning = "Using an engine plan file across different models of devices is not recommended."
    engine = load()
    assert engine.device.endswith("TensorRT warns that the engine is of another model of GPU")
    infer(engine, 5)


def test_a_letterbox_that_fails_in_its_own_way_is_left_to_the_cpu(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_bindings() -> Any:
        raise AttributeError("no cuModuleLoadData")

    monkeypatch.setattr(device_letterbox, "_driver", other_bindings)
    engine = load()
    assert engine.device.endswith("letterbox on the CPU (AttributeError: no cuModuleLoadData)")
    infer(engine, 5)


def test_only_tensorrt_rtx_names_the_gpus_that_it_supports(trt: SimulatedTensorRt) -> None:
    thor = replace(ORIN, name="Thor", compute_capability="sm110")
    tensorrt.check_supported(TensorRtLibrary(trt, "tensorrt", "11.4.1"), thor)
    with pytest.raises(EngineError, match=r"^TensorRT-RTX does not support Thor \(sm110\)$"):
        tensorrt.check_supported(TensorRtLibrary(trt, "tensorrt_rtx", "1.7.1"), thor)


def test_the_key_tells_gpus_of_one_name_apart(toy: Bundle, trt: SimulatedTensorRt) -> None:
    network, library = Network.of(toy, "fp32"), TensorRtLibrary(trt, "tensorrt", "10.3.0")
    key = tensorrt.engine_key(network, library, ORIN)
    assert key.differences(key) == []
    for device, words in (
        (replace(ORIN, multiprocessors=16), "multiprocessors is 8, needed is 16"),
        (replace(ORIN, memory_mib=15_656), "memory_mib is 7620, needed is 15656"),
    ):
        other = tensorrt.engine_key(network, library, device)
        assert key.differences(other) == [words]


def test_a_damaged_engine_is_named_beside_the_one_that_runs_in_its_place(
    toy: Bundle, trt: SimulatedTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = TensorRtLibrary(trt, "tensorrt_rtx", "1.7.1")
    monkeypatch.setattr(tensorrt, "require_flavours", lambda: ["tensorrt_rtx"])
    monkeypatch.setattr(tensorrt, "import_library", lambda _flavour: library)
    monkeypatch.setattr(cuda, "current_device", lambda: ORIN)
    monkeypatch.setenv("MTC_ENGINE_CACHE", str(tmp_path))
    store = EngineStore()
    key = tensorrt.engine_key(Network.of(toy, "fp32"), library, ORIN)
    store.put(replace(key, gpu="", multiprocessors=0, memory_mib=0), b"ahead of time", {})
    damaged = store.put(key, b"of this GPU", {})
    damaged.write_bytes(b"of this gpu")
    engine, _, why, _ = open_engine(toy, "tensorrt")
    assert f", in place of {damaged}: is damaged, its sha256 is not its record's" in why
    engine.close()


def test_whatever_fails_while_it_runs_is_the_engines_fault(
    toy: Bundle, load: Load, trt: SimulatedTensorRt, gpu: SimulatedGpu
) -> None:
    perceiver = Perceiver(toy, load())
    image = SourceImage(np.zeros((40, 40, 3), np.uint8), "rgb")
    perceiver.perceive(image)
    trt.failure = ZeroDivisionError("in the bindings")
    with pytest.raises(EngineError, match=r"ZeroDivisionError: in the bindings$"):
        perceiver.perceive(image)
    trt.failure = None
    perceiver.perceive(image)
    gpu.broken = True
    with pytest.raises(EngineError, match="cudaErrorLaunchFailure"):
        perceiver.perceive(image)
    perceiver.close()


class Untouchable:
    """A device that remembers who calls it."""

    def __init__(self) -> None:
        self.touched: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.touched.append(name)
        raise AttributeError(name)


def test_a_gpu_that_hangs_is_replaced_and_left_alone(
    toy: Bundle, load: Load, gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load()
    context = weakref.ref(engine._context)
    selection = Selection(toy.path, "tensorrt", threads=1, fallback=True)
    host = EngineHost(selection, Perceiver(toy, engine, "chosen"))
    image = SourceImage(np.full((50, 90, 3), 200, np.uint8), "bgr")
    expected = host.perceiver.perceive(image)

    gpu.hangs = True
    with pytest.raises(EngineError, match="the device did not answer in 5 s") as caught:
        host.perceiver.perceive(image)
    device = Untouchable()
    with monkeypatch.context() as patch:
        patch.setattr(cuda, "runtime", lambda: device)
        told = host.replace(caught.value)
        assert told.startswith("tensorrt failed: CUDA: the device did not answer in 5 s; running")
        np.testing.assert_array_equal(host.perceiver.perceive(image).drivable, expected.drivable)
        with pytest.raises(EngineError, match="restart this process"):
            cuda.call("cudaGetDeviceCount")
        del engine, caught
        gc.collect()
    assert device.touched == []  # even to free something could block for ever
    assert context() is not None  # its destructor could, too
    host.close()


def test_an_engine_that_prepares_images_wrongly_is_not_taken(
    toy: Bundle, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "prepare", lambda *_: engine.input.fill(0))
        patch.setattr(tensorrt, "load", lambda *_: engine)
        with pytest.raises(EngineError, match="self-test: drivable_mean is 0"):
            open_engine(toy, "tensorrt")


def test_an_engine_that_is_closed_goes_away(load: Load, gpu: SimulatedGpu) -> None:
    before = gpu.memory_bytes()
    engine = load()
    context = weakref.ref(engine._context)
    engine.close()
    assert context() is None
    del engine
    gc.collect()
    assert gpu.memory_bytes() == before


def test_the_bench_tells_copies_engine_and_host_apart(
    toy: Bundle,
    load: Load,
    gpu: SimulatedGpu,
    trt: SimulatedTensorRt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trt.inference_s, gpu.copy_in_s = 0.004, 0.008
    engine = load()
    camera = cuda.pinned_array(64)

    class Copy:
        """In place of the letterbox on the GPU: it takes its time there."""

        def write(self, *_: object) -> None:
            engine.stream.copy_to_device(engine._device_input.pointer, camera)

        def close(self) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_letterbox", Copy())
        patch.setattr(tensorrt, "load", lambda *_: engine)
        patch.setattr("mtc_perception.engines.open.check_self_test", lambda *_: None)
        found = measure(toy, None, 2 * BLOCK)
    medians = {name: times["p50"] for name, times in found["latency_ms"].items()}
    assert medians["engine"] == pytest.approx(4.0)
    assert medians["prepare"] == pytest.approx(8.0, abs=0.2)
    assert medians["answer"] == pytest.approx(4.0, abs=0.2)
    assert medians["frame"] == pytest.approx(12.0, abs=0.2)
    assert found["host_overhead"] == pytest.approx(medians["answer"] / medians["engine"] - 1)
    mean_s = found["latency_ms"]["frame"]["mean"] / 1e3
    assert found["images_per_s"] == pytest.approx(1 / mean_s)
    assert found["layers"] == {"fp16": 1, "fp32": 1}
    assert found["runs"] == 2 * BLOCK
    trt.inference_s = 0.3  # a slow engine, not one that hangs
    assert engine_ms(load()) == pytest.approx(300.0)

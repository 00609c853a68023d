import gc
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from mtc_perception.engines.tensorrt import cuda
from mtc_perception.util.errors import EngineError
from support.gpu import without_gpu
from support.simulated_gpu import SimulatedGpu, simulated_gpu

pytest.importorskip("cuda.bindings.runtime")


@without_gpu
def test_failures_are_told_in_cudas_words() -> None:
    for use in (
        cuda.Stream,
        cuda.Event,
        lambda: cuda.DeviceBuffer(1),
        lambda: cuda.pinned_array(1),
    ):
        with pytest.raises(EngineError, match=r"^CUDA: CUDA driver version is insufficient .* \("):
            use()


def test_without_the_bindings_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.runtime.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineError, match=r"cannot be imported .*; pip install cuda-bindings \("):
        cuda.runtime()
    monkeypatch.undo()
    assert cuda.runtime()


@pytest.fixture
def gpu() -> Iterator[SimulatedGpu]:
    with simulated_gpu() as gpu:
        yield gpu


def event_after(gpu: SimulatedGpu, seconds: float) -> cuda.Event:
    stream, event = cuda.Stream(), cuda.Event()
    gpu.put(seconds, lambda: None)
    event.record(stream)
    return event


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.05])
def test_a_wait_ends_when_the_device_is_there(gpu: SimulatedGpu, seconds: float) -> None:
    begin_s = gpu.now_s()
    event_after(gpu, seconds).wait()
    assert seconds <= gpu.now_s() - begin_s < seconds + 0.0001
    # What was not ready meanwhile is no failure for others to find.
    assert gpu.last == gpu.cudaError_t.cudaSuccess


def test_a_long_wait_leaves_the_core_to_others(gpu: SimulatedGpu) -> None:
    event_after(gpu, 0.0005).wait()
    assert gpu.slept_s == 0.0
    event_after(gpu, 0.1).wait()
    assert gpu.slept_s > 0.09


def test_a_wait_tells_what_went_wrong(gpu: SimulatedGpu) -> None:
    event = event_after(gpu, 0.0)
    gpu.broken = True
    with pytest.raises(EngineError, match=r"^CUDA: cudaErrorLaunchFailure \(cudaEventQuery\)$"):
        event.wait()
    assert cuda.answers()


def test_a_device_that_does_not_answer_is_not_asked_again(gpu: SimulatedGpu) -> None:
    stream, event, memory = cuda.Stream(), event_after(gpu, 0.0), cuda.DeviceBuffer(16)
    gpu.hangs = True
    begin_s = gpu.now_s()
    with pytest.raises(EngineError, match=r"^CUDA: the device did not answer in 0\.5 s$"):
        event.wait(0.5)
    assert 0.5 < gpu.now_s() - begin_s < 0.51
    assert not cuda.answers()
    begin_s = gpu.now_s()
    for use in (stream.synchronise, cuda.Stream, lambda: cuda.DeviceBuffer(1)):
        with pytest.raises(EngineError, match="did not answer in time once; restart this process"):
            use()
    memory.close()
    assert gpu.memory_bytes() == 16  # releasing it could block as well
    assert gpu.now_s() - begin_s < 0.001


def test_a_process_that_was_stopped_looks_once_more(
    gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    event, looks = event_after(gpu, 0.0), []

    def stopped_in_the_first_look(_event: object) -> tuple[object]:
        looks.append(gpu.now_s())
        if len(looks) > 1:
            return (gpu.cudaError_t.cudaSuccess,)
        gpu.sleep(0.1)
        return (gpu.cudaError_t.cudaErrorNotReady,)

    monkeypatch.setattr(gpu, "cudaEventQuery", stopped_in_the_first_look)
    event.wait(0.05)
    assert len(looks) == 2


@pytest.mark.gpu
def test_what_is_copied_in_comes_out_again() -> None:
    stream, device = cuda.Stream(), cuda.DeviceBuffer(1000)
    sent, received = cuda.pinned_array(1000), cuda.pinned_array(1000)
    sent[:] = np.arange(1000) % 256
    stream.copy_to_device(device.pointer, sent)
    stream.copy_to_host(received, device.pointer)
    stream.synchronise()
    np.testing.assert_array_equal(received, sent)


@pytest.mark.gpu
def test_captured_work_runs_when_it_is_launched_only() -> None:
    stream, device = cuda.Stream(), cuda.DeviceBuffer(8)
    sent, received = cuda.pinned_array(8), cuda.pinned_array(8)
    received[:] = 0

    def work() -> None:
        stream.copy_to_device(device.pointer, sent)
        stream.copy_to_host(received, device.pointer)

    sent[:] = 1
    graph = stream.capture(work)
    stream.synchronise()
    assert (received == 0).all()
    for value in (2, 3):
        sent[:] = value
        graph.launch(stream)
        stream.synchronise()
        assert (received == value).all()


@pytest.mark.gpu
def test_work_that_cannot_be_captured_leaves_the_stream_usable() -> None:
    stream, device = cuda.Stream(), cuda.DeviceBuffer(8)
    with pytest.raises(EngineError, match="captur"):
        stream.capture(stream.synchronise)
    with pytest.raises(ZeroDivisionError):
        stream.capture(lambda: 1 // 0)
    received = cuda.pinned_array(8)
    stream.copy_to_host(received, device.pointer)
    stream.synchronise()


@pytest.mark.gpu
def test_events_measure_the_devices_time() -> None:
    stream, begin, end = cuda.Stream(), cuda.Event(), cuda.Event()
    device, host = cuda.DeviceBuffer(1 << 26), cuda.pinned_array(1 << 26)
    begin.record(stream)
    stream.copy_to_device(device.pointer, host)
    end.record(stream)
    end.wait()
    assert 0.1 < end.ms_since(begin) < 1000.0  # 64 MiB at 670 GB/s to 67 MB/s


@pytest.mark.gpu
def test_a_failure_is_forgotten_by_the_next_call() -> None:
    with pytest.raises(EngineError, match=r"^CUDA: out of memory \(cudaMalloc\)$"):
        cuda.DeviceBuffer(1 << 46)
    assert cuda.DeviceBuffer(16).pointer % 256 == 0
    device = cuda.current_device()
    assert device.compute_capability.startswith("sm")
    assert device.multiprocessors > 0
    assert device.memory_mib > 1000


@pytest.mark.gpu
def test_pinned_memory_outlives_its_first_name() -> None:
    view = cuda.pinned_array(16)[4:8]
    gc.collect()
    view[:] = 5
    assert (view == 5).all()

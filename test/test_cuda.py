import gc
import sys

import numpy as np
import pytest
from gpu import missing_gpu, needs_gpu

from mtc_perception.engines import cuda
from mtc_perception.errors import EngineError

pytest.importorskip("cuda.bindings.runtime")
without_gpu = pytest.mark.skipif(not missing_gpu(), reason="this machine has a GPU")


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
    with pytest.raises(EngineError, match=r"cannot be imported .*; pip install cuda-bindings$"):
        cuda.runtime()
    monkeypatch.undo()
    assert cuda.runtime()


@needs_gpu
def test_what_is_copied_in_comes_out_again() -> None:
    stream, device = cuda.Stream(), cuda.DeviceBuffer(1000)
    sent, received = cuda.pinned_array(1000), cuda.pinned_array(1000)
    sent[:] = np.arange(1000) % 256
    stream.copy_to_device(device.pointer, sent)
    stream.copy_to_host(received, device.pointer)
    stream.synchronise()
    np.testing.assert_array_equal(received, sent)


@needs_gpu
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


@needs_gpu
def test_work_that_cannot_be_captured_leaves_the_stream_usable() -> None:
    stream, device = cuda.Stream(), cuda.DeviceBuffer(8)
    with pytest.raises(EngineError, match="captur"):
        stream.capture(stream.synchronise)
    with pytest.raises(ZeroDivisionError):
        stream.capture(lambda: 1 // 0)
    received = cuda.pinned_array(8)
    stream.copy_to_host(received, device.pointer)
    stream.synchronise()


@needs_gpu
def test_events_measure_the_devices_time() -> None:
    stream, begin, end = cuda.Stream(), cuda.Event(), cuda.Event()
    device, host = cuda.DeviceBuffer(1 << 26), cuda.pinned_array(1 << 26)
    begin.record(stream)
    stream.copy_to_device(device.pointer, host)
    end.record(stream)
    end.wait()
    assert 0.1 < end.ms_since(begin) < 1000.0  # 64 MiB at 670 GB/s to 67 MB/s


@needs_gpu
def test_a_failure_is_forgotten_by_the_next_call() -> None:
    with pytest.raises(EngineError, match=r"^CUDA: out of memory \(cudaMalloc\)$"):
        cuda.DeviceBuffer(1 << 46)
    assert cuda.DeviceBuffer(16).pointer % 256 == 0
    assert cuda.current_device().compute_capability.startswith("sm")


@needs_gpu
def test_pinned_memory_outlives_its_first_name() -> None:
    view = cuda.pinned_array(16)[4:8]
    gc.collect()
    view[:] = 5
    assert (view == 5).all()

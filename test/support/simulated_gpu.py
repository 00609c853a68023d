"""A CUDA device and a TensorRT that exist on the host only, with a clock of their own.

They stand for what our code hands its work to, so that what it makes of delays, failures and
silence can be tested, however busy this machine is. What NVIDIA's own do is tested where there is a
GPU.
"""

import ctypes
import gc
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mtc_perception.commands import engine_bench
from mtc_perception.engines.tensorrt import cuda
from mtc_perception.runtime import perceiver
from support.toy_bundle import CLASSES, MAX_DETECTIONS

Work = tuple[float, Callable[[], object]]


class Status(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorLaunchFailure = 719
    cudaErrorNotReady = 600


@dataclass
class Mark:
    """An event: when the device has come to it."""

    at_s: float = 0.0


class SimulatedGpu:
    """In place of the module `cuda.bindings.runtime`; one stream.

    Work is done when it is put on the stream, and takes its time on the simulated clock only.
    """

    cudaError_t = Status
    cudaEventDefault, cudaEventDisableTiming = 0, 2
    cudaHostAllocDefault, cudaStreamNonBlocking = 0, 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.copy_in_s = 0.0
        """What each copy from the host takes."""
        self.most_bytes = 1 << 30
        """Of one piece of memory."""
        self.hangs = False
        self.broken = False
        """Every look at an event then finds a failure."""
        self.last = Status.cudaSuccess
        self.slept_s = 0.0
        """What those who waited slept of the time."""
        self._time_s = 0.0
        self._memory: dict[int, Any] = {}
        self._busy_until_s = 0.0
        self._capture: list[Work] | None = None

    def now_s(self) -> float:
        """The time on the simulated clock; it takes a microsecond to look at it."""
        self._time_s += 1e-6
        return self._time_s

    def sleep(self, seconds: float) -> None:
        """In place of `time.sleep`."""
        self.slept_s += seconds
        self._time_s += seconds

    def put(self, seconds: float, work: Callable[[], object]) -> None:
        """Do `work`, which takes `seconds` after what is already on the stream."""
        if self._capture is not None:
            self._capture.append((seconds, work))
            return
        work()
        self._busy_until_s = max(self._busy_until_s, self.now_s()) + seconds

    def memory_bytes(self) -> int:
        """What is allocated."""
        return sum(len(block) for block in self._memory.values())

    def cudaMalloc(self, size_bytes: int) -> tuple[Status, int | None]:
        if size_bytes > self.most_bytes:
            return self._fail(Status.cudaErrorMemoryAllocation), None
        return Status.cudaSuccess, self._allocated(size_bytes)

    def cudaHostAlloc(self, size_bytes: int, _flags: int) -> tuple[Status, int]:
        return Status.cudaSuccess, self._allocated(size_bytes)

    def cudaFree(self, pointer: int) -> tuple[Status]:
        known = self._memory.pop(pointer, None) is not None
        return (Status.cudaSuccess if known else self._fail(Status.cudaErrorInvalidValue),)

    cudaFreeHost = cudaFree

    def cudaStreamCreateWithFlags(self, _flags: int) -> tuple[Status, int]:
        return Status.cudaSuccess, 1

    def cudaEventCreateWithFlags(self, _flags: int) -> tuple[Status, Mark]:
        return Status.cudaSuccess, Mark()

    def cudaEventRecord(self, event: Mark, _stream: int) -> tuple[Status]:
        event.at_s = max(self._busy_until_s, self.now_s())
        return (Status.cudaSuccess,)

    def cudaEventQuery(self, event: Mark) -> tuple[Status]:
        if self.broken:
            return (self._fail(Status.cudaErrorLaunchFailure),)
        if self.hangs or self.now_s() < event.at_s:
            return (self._fail(Status.cudaErrorNotReady),)
        return (Status.cudaSuccess,)

    def cudaEventElapsedTime(self, begin: Mark, end: Mark) -> tuple[Status, float]:
        return Status.cudaSuccess, (end.at_s - begin.at_s) * 1e3

    def cudaMemcpyAsync(
        self, target: int, source: int, size_bytes: int, kind: int, _stream: int
    ) -> tuple[Status]:
        seconds = self.copy_in_s if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else 0.0
        self.put(seconds, partial(ctypes.memmove, target, source, size_bytes))
        return (Status.cudaSuccess,)

    def cudaStreamBeginCapture(self, _stream: int, _mode: int) -> tuple[Status]:
        self._capture = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, _stream: int) -> tuple[Status, Any]:
        captured, self._capture = self._capture, None
        return Status.cudaSuccess, captured

    def cudaGraphInstantiate(self, captured: list[Work], _flags: int) -> tuple[Status, list[Work]]:
        return Status.cudaSuccess, captured

    def cudaGraphLaunch(self, graph: list[Work], _stream: int) -> tuple[Status]:
        for seconds, work in graph:
            self.put(seconds, work)
        return (Status.cudaSuccess,)

    def cudaGraphDestroy(self, _handle: Any) -> tuple[Status]:
        return (Status.cudaSuccess,)

    cudaGraphExecDestroy = cudaStreamDestroy = cudaEventDestroy = cudaGraphDestroy

    def cudaGetLastError(self) -> tuple[Status]:
        last, self.last = self.last, Status.cudaSuccess
        return (last,)

    def cudaGetErrorString(self, status: Status) -> tuple[Status, bytes]:
        return Status.cudaSuccess, status.name.encode()

    def _fail(self, status: Status) -> Status:
        self.last = status
        return status

    def _allocated(self, size_bytes: int) -> int:
        block = ctypes.create_string_buffer(size_bytes)
        pointer = ctypes.addressof(block)
        self._memory[pointer] = block
        return pointer


@contextmanager
def simulated_gpu() -> Iterator[SimulatedGpu]:
    """The GPU that `engines.tensorrt.cuda` finds meanwhile, and by whose clock it is measured."""
    gpu = SimulatedGpu()
    clock = SimpleNamespace(monotonic=gpu.now_s, perf_counter=gpu.now_s, sleep=gpu.sleep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "time", clock)
        patch.setattr(engine_bench, "time", clock)
        patch.setattr(perceiver, "perf_counter", gpu.now_s)
        patch.setattr(cuda, "runtime", lambda: gpu)
        patch.setattr(cuda, "_unanswered", threading.Event())
        yield gpu
        gc.collect()  # what is left of it is not for the real one to release


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class ILogger:
    Severity = Severity


class SimulatedTensorRt:
    """In place of the module `tensorrt`: whatever engine it is given, it runs the toy network."""

    ILogger = ILogger
    TensorIOMode = Enum("TensorIOMode", ["INPUT", "OUTPUT"])
    LayerInformationFormat = Enum("LayerInformationFormat", ["JSON"])
    ComputeCapability = Enum("ComputeCapability", ["SM87"])

    def __init__(self, gpu: SimulatedGpu, height: int, width: int) -> None:
        self.gpu = gpu
        self.height, self.width = height, width
        self.inference_s = 0.0
        self.warning = ""
        """Said whenever an engine is loaded."""
        self.failure: Exception | None = None
        """Raised by each inference, in place of its answers."""
        self.refusal = ""
        """Said by each inference that then does not start."""
        self.loggers: list[Any] = []

    def Runtime(self, logger: Any) -> Any:
        self.loggers.append(logger)
        return SimpleNamespace(deserialize_cuda_engine=self._engine)

    def say(self, severity: Severity, text: str) -> None:
        self.loggers[0].log(severity, text)  # it keeps the first that it is given

    def _engine(self, _serialised: bytes) -> "SimulatedEngine":
        if self.warning:
            self.say(Severity.WARNING, self.warning)
        return SimulatedEngine(self)


class SimulatedEngine:
    """In place of an `ICudaEngine` and its inspector."""

    def __init__(self, trt: SimulatedTensorRt) -> None:
        self.trt = trt
        mask = (1, trt.height, trt.width)
        self.tensors = {
            "image": ("UINT8", (*mask, 3)),
            "boxes": ("FLOAT", (1, MAX_DETECTIONS, 4)),
            "scores": ("FLOAT", (1, MAX_DETECTIONS)),
            "labels": ("INT64", (1, MAX_DETECTIONS)),
            "drivable": ("UINT8", mask),
            "lane": ("UINT8", mask),
        }
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return [*self.tensors][index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.tensors[name][0])

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.trt.TensorIOMode
        return modes.INPUT if name == "image" else modes.OUTPUT

    def create_execution_context(self) -> "SimulatedContext":
        return SimulatedContext(self)

    def create_engine_inspector(self) -> Any:
        layers = [{"Inputs": [], "Outputs": [{"DataType": kind}]} for kind in ("Half", "Float")]
        return SimpleNamespace(get_engine_information=lambda _: json.dumps({"Layers": layers}))


class SimulatedContext:
    """In place of an `IExecutionContext`."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine = engine
        self._addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, _stream: int) -> bool:
        trt = self.engine.trt
        if trt.refusal:
            trt.say(Severity.ERROR, trt.refusal)
            return False
        trt.gpu.put(trt.inference_s, self._infer)
        return True

    def _infer(self) -> None:
        trt = self.engine.trt
        if trt.failure is not None:
            raise trt.failure
        frame = self._tensor("image", np.uint8)[0]
        shares = frame.mean() / 255 / np.arange(1, MAX_DETECTIONS + 1)
        self._tensor("scores", np.float32)[0] = shares
        self._tensor("boxes", np.float32)[0] = shares[:, None] * [0, 0, trt.width, trt.height]
        self._tensor("labels", np.int64)[0] = np.arange(MAX_DETECTIONS) % len(CLASSES)
        self._tensor("drivable", np.uint8)[0] = frame[..., 0]
        self._tensor("lane", np.uint8)[0] = frame[..., 1]

    def _tensor(self, name: str, dtype: Any) -> Any:
        shape = self.engine.tensors[name][1]
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = (ctypes.c_uint8 * size_bytes).from_address(self._addresses[name])
        return np.frombuffer(block, dtype).reshape(shape)

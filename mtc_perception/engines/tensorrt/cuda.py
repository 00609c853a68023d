"""The part of the CUDA runtime that engines need, over NVIDIA's Python bindings.

Whatever CUDA refuses raises EngineError in CUDA's own words. Memory, streams, events and graphs
are released when nothing refers to them any more, or by their `close`. The device is the first
that `CUDA_VISIBLE_DEVICES` leaves.

A device that once did not answer in time is not asked again by this process: any call, even one
that releases memory, could then block for ever.
"""

import ctypes
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mtc_perception.util.errors import EngineError

ANSWER_S = 5.0
"""How long the device may take to come to an event; an inference takes milliseconds."""
_SPIN_S = 1e-3
"""From here on a wait sleeps between two looks; before, a sleep would cost more than it saves."""
_PAUSE_S = 50e-6
"""The sleep; the kernel's timers make it about twice as long."""
_BYTES_PER_MIB = 2**20

_unanswered = threading.Event()


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU."""

    name: str
    """Not enough to tell GPUs apart: those of all Jetson Orin boards are called `Orin`."""
    compute_capability: str
    """As TensorRT writes it: `sm89`."""
    multiprocessors: int
    memory_mib: int
    """What CUDA can use of it; another driver may leave a little more or less."""


@cache
def runtime() -> Any:
    """The module `cuda.bindings.runtime`. Raises EngineError if there is none."""
    try:
        from cuda.bindings import runtime as bindings
    except (ImportError, OSError, RuntimeError) as error:  # it loads other libraries
        why = " ".join(str(error).split())
        raise EngineError(
            f"the Python package cuda.bindings cannot be imported ({why});"
            " pip install cuda-bindings (which one for which driver: docs/tensorrt.md)"
        ) from error
    return bindings


def call(name: str, *arguments: Any) -> Any:
    """What the CUDA runtime's function `name` returns. Raises EngineError if it fails."""
    status, value = _tried(name, *arguments)
    _check(status, name)
    return value


def answers() -> bool:
    """False once the device has not answered in time: then nothing of it may be touched."""
    return not _unanswered.is_set()


def check_answers() -> None:
    """Raise EngineError once the device has not answered in time."""
    if not answers():
        raise EngineError("CUDA: the device did not answer in time once; restart this process")


def current_device() -> Device:
    """The GPU in use. Raises EngineError, also without an NVIDIA driver."""
    try:
        # In microseconds, where importing the bindings takes a second.
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EngineError("no NVIDIA driver on this machine") from error
    call("cudaGetDeviceCount")  # of all calls, it says best what is wrong
    found = call("cudaGetDeviceProperties", call("cudaGetDevice"))
    return Device(
        name=found.name.decode().rstrip("\0"),
        compute_capability=f"sm{found.major}{found.minor}",
        multiprocessors=found.multiProcessorCount,
        memory_mib=found.totalGlobalMem // _BYTES_PER_MIB,
    )


class DeviceBuffer:
    """Memory of the device."""

    def __init__(self, size_bytes: int) -> None:
        self.pointer = int(call("cudaMalloc", size_bytes))
        self.close = weakref.finalize(self, _release, "cudaFree", self.pointer)


def pinned_array(size_bytes: int) -> npt.NDArray[np.uint8]:
    """Host memory that the device can copy from and to by itself, uint8 `[size_bytes]`.

    It is released with the last view of it.
    """
    pointer = int(call("cudaHostAlloc", size_bytes, runtime().cudaHostAllocDefault))
    block = (ctypes.c_uint8 * size_bytes).from_address(pointer)
    # When Python ends, a view may still be in use, and the driver takes the memory back anyway.
    weakref.finalize(block, _release, "cudaFreeHost", pointer).atexit = False
    return np.frombuffer(memoryview(block), np.uint8)


class Event:
    """A point in a stream's work."""

    def __init__(self, *, timed: bool = True) -> None:
        flags = runtime().cudaEventDefault if timed else runtime().cudaEventDisableTiming
        self._handle = call("cudaEventCreateWithFlags", flags)
        self.close = weakref.finalize(self, _release, "cudaEventDestroy", self._handle)

    def record(self, stream: "Stream") -> None:
        """Put the event behind all work that is on `stream` now."""
        call("cudaEventRecord", self._handle, stream.handle)

    def wait(self, timeout_s: float = ANSWER_S) -> None:
        """Block until the device has come to the event. Raises EngineError for what went wrong
        until then, and if the device does not come to it within `timeout_s`.
        """
        # CUDA's own wait knows no deadline. Looking again and again finds the end of short work at
        # once, and of longer work within a tenth of a millisecond, for a tenth of a core meanwhile.
        # Other threads of Python run in each call and in each sleep.
        begin_s = time.monotonic()
        waited_s = 0.0
        while not self._reached():
            # Of before the look: a process that was stopped looks once more when it goes on.
            if waited_s > timeout_s:
                _unanswered.set()
                raise EngineError(f"CUDA: the device did not answer in {timeout_s:g} s")
            if waited_s > _SPIN_S:
                time.sleep(_PAUSE_S)
            waited_s = time.monotonic() - begin_s

    def _reached(self) -> bool:
        status, _ = _tried("cudaEventQuery", self._handle)
        if status == runtime().cudaError_t.cudaErrorNotReady:
            return False
        _check(status, "cudaEventQuery")
        return True

    def ms_since(self, earlier: "Event") -> float:
        """Time between two timed events that the device has come to, by its own clock."""
        return float(call("cudaEventElapsedTime", earlier._handle, self._handle))


class Graph:
    """Captured work that is put on a stream in one go."""

    def __init__(self, handle: Any) -> None:
        """`handle` is a `cudaGraphExec_t`, which the graph then owns."""
        self._handle = handle
        self.close = weakref.finalize(self, _release, "cudaGraphExecDestroy", handle)

    def launch(self, stream: "Stream") -> None:
        """Put the work on `stream`."""
        call("cudaGraphLaunch", self._handle, stream.handle)


class Stream:
    """A queue of work for the device, which runs in order. For one thread at a time."""

    def __init__(self) -> None:
        # Not tied to the default stream: other libraries of the process use that one.
        self.handle = call("cudaStreamCreateWithFlags", runtime().cudaStreamNonBlocking)
        """A `cudaStream_t`; `int()` gives the address."""
        self._end = Event(timed=False)
        self.close = weakref.finalize(self, _release, "cudaStreamDestroy", self.handle)

    def copy_to_device(self, target: int, source: npt.NDArray[Any]) -> None:
        """Copy a contiguous array of pinned memory to the address `target` of the device."""
        kind = runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, self.handle)

    def copy_to_host(self, target: npt.NDArray[Any], source: int) -> None:
        """Fill a contiguous array of pinned memory from the address `source` of the device."""
        kind = runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, self.handle)

    def synchronise(self) -> None:
        """Block until all work is done. Raises EngineError for what failed on the way."""
        self._end.record(self)
        self._end.wait()

    def capture(self, work: Callable[[], None]) -> Graph:
        """What `work` puts on this stream, as a graph; it does not run yet.

        Raises what `work` raises, and EngineError for work that cannot be captured.
        """
        # Other threads may allocate meanwhile: another engine may be loading.
        mode = runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", self.handle, mode)
        try:
            work()
        except BaseException:
            with suppress(EngineError):
                call("cudaGraphDestroy", call("cudaStreamEndCapture", self.handle))
            raise
        captured = call("cudaStreamEndCapture", self.handle)
        try:
            return Graph(call("cudaGraphInstantiate", captured, 0))
        finally:
            call("cudaGraphDestroy", captured)


def _tried(name: str, *arguments: Any) -> tuple[Any, Any]:
    """The status that the CUDA runtime's function `name` returns, and its value if it has one."""
    check_answers()
    api = runtime()
    try:
        status, *values = getattr(api, name)(*arguments)
    except RuntimeError as problem:  # how older bindings say that there is no driver
        raise EngineError(f"CUDA: {problem} ({name})") from problem
    if status != api.cudaError_t.cudaSuccess:
        # CUDA keeps the error for whoever asks for the last one, TensorRT for instance.
        api.cudaGetLastError()
    return status, values[0] if values else None


def _check(status: Any, name: str) -> None:
    api = runtime()
    if status != api.cudaError_t.cudaSuccess:
        raise EngineError(f"CUDA: {api.cudaGetErrorString(status)[1].decode()} ({name})")


def _release(name: str, handle: Any) -> None:
    # After a failure of the device nothing can be released; the driver does it in the end.
    with suppress(EngineError):
        call(name, handle)

"""The letterbox on the GPU: raw camera bytes in, the network's input out, one kernel.

The kernel is compiled by NVRTC for the GPU it runs on. It is launched before the network's CUDA
graph rather than inside it: image and geometry change with the camera, and setting a graph node's
parameters costs as much as the launch that it would save.
"""

import ctypes
import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtc_perception.core.images import PixelFormat, SourceImage
from mtc_perception.core.letterbox import PAD_VALUE, Letterbox
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.engines.tensorrt.cuda import (
    Device,
    DeviceBuffer,
    Stream,
    check_answers,
    pinned_array,
)
from mtc_perception.util.errors import EngineError, ImageError

_SOURCE = Path(__file__).with_name("letterbox.cu")
_ENTRY = b"letterbox"
TOLERANCE = 1
"""Grey levels between kernel and OpenCV, whose own interpolation has 11 bits."""
_BLOCK = (32, 8)
"""Threads, horizontally and vertically; each writes one pixel."""
_FIRST_SIZE_BYTES = 1080 * 1920 * 4
"""Room for what most cameras send, so that it need not be made for the first image of one."""
# Bytes of a pixel, and which of them are red, green and blue.
_LAYOUTS: dict[PixelFormat, tuple[int, tuple[int, int, int]]] = {
    "rgb": (3, (0, 1, 2)),
    "bgr": (3, (2, 1, 0)),
    "rgba": (4, (0, 1, 2)),
    "bgra": (4, (2, 1, 0)),
    "mono": (1, (0, 0, 0)),
}


class Geometry(ctypes.Structure):
    """The struct of the same name in letterbox.cu."""

    _fields_ = [
        ("src_height", ctypes.c_int),
        ("src_width", ctypes.c_int),
        ("pixel_bytes", ctypes.c_int),
        ("channel", ctypes.c_int * 3),
        ("dst_height", ctypes.c_int),
        ("dst_width", ctypes.c_int),
        ("top", ctypes.c_int),
        ("left", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("averages", ctypes.c_int),
        ("pad_value", ctypes.c_int),
    ]


def geometry(image: SourceImage, letterbox: Letterbox) -> Geometry:
    """What the kernel must know of `image`, packed without gaps between rows, and `letterbox`.

    Raises ImageError if the pixels do not have the shape of their format.
    """
    pixel_bytes, channel = _LAYOUTS[image.format]
    height, width = image.pixels.shape[:2]
    shape = (height, width, pixel_bytes)
    if image.pixels.shape != (shape if pixel_bytes > 1 else shape[:2]):
        found = "x".join(map(str, image.pixels.shape))
        raise ImageError(f"image cannot be scaled: {found} values are not {image.format}")
    return Geometry(
        height,
        width,
        pixel_bytes,
        channel,
        letterbox.dst_height,
        letterbox.dst_width,
        letterbox.top,
        letterbox.left,
        letterbox.height,
        letterbox.width,
        letterbox.averages(image),
        PAD_VALUE,
    )


class DeviceLetterbox:
    """What `Letterbox.write` does, done by the GPU on one stream.

    The pinned and the device buffer for the image are kept, and made anew only for an image larger
    than any before.
    """

    def __init__(self, stream: Stream, device: Device) -> None:
        """`device` is the GPU of `stream`.

        Raises EngineError where the kernel cannot be compiled or loaded, or computes something
        else than the host: then the host has to do it.
        """
        code = compiled_kernel(device.compute_capability)
        self._stream = stream
        # The driver's functions want a context; making the stream has set the runtime's own.
        self._module = _driver_call("cuModuleLoadData", code)
        self._close_module = weakref.finalize(self, _unload, self._module)
        self._kernel = _driver_call("cuModuleGetFunction", self._module, _ENTRY)
        self._pinned, self._source = _buffers(_FIRST_SIZE_BYTES)
        check_kernel(self._written)

    def write(self, image: SourceImage, letterbox: Letterbox, out: int) -> None:
        """Put `image`, of this letterbox's source size, as uint8 `[H, W, 3]` RGB at `out`.

        `out` is an address of the device. The work is only put on the stream, and the stream must
        be done with the image before. Raises ImageError for pixels that are not of their format,
        EngineError for what CUDA refuses.
        """
        shape = geometry(image, letterbox)
        size_bytes = image.pixels.size
        if self._pinned.size < size_bytes:
            self._pinned, self._source = _buffers(size_bytes)
        packed = self._pinned[:size_bytes]
        np.copyto(packed.reshape(image.pixels.shape), image.pixels)
        self._stream.copy_to_device(self._source.pointer, packed)
        arguments = (ctypes.c_void_p(self._source.pointer), shape, ctypes.c_void_p(out))
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        blocks = (-(-letterbox.dst_width // _BLOCK[0]), -(-letterbox.dst_height // _BLOCK[1]))
        stream = _driver().CUstream(int(self._stream.handle))
        # The launch copies the arguments.
        launch = (*blocks, 1, *_BLOCK, 1, 0, stream, ctypes.addressof(addresses), 0)
        _driver_call("cuLaunchKernel", self._kernel, *launch)

    def _written(self, image: SourceImage, letterbox: Letterbox) -> npt.NDArray[np.uint8]:
        shape = (letterbox.dst_height, letterbox.dst_width, 3)
        found = pinned_array(math.prod(shape)).reshape(shape)
        out = DeviceBuffer(found.nbytes)
        self.write(image, letterbox, out.pointer)
        self._stream.copy_to_host(found, out.pointer)
        self._stream.synchronise()
        return found

    def close(self) -> None:
        """Release the kernel and the device's buffer; the stream must be done with them."""
        self._close_module()
        self._source.close()


def check_kernel(run: Callable[[SourceImage, Letterbox], npt.NDArray[np.uint8]]) -> None:
    """Raise EngineError unless `run` gives what the host's letterbox gives, small and large."""
    for height, width in ((70, 90), (300, 500)):  # interpolated, averaged
        image = SourceImage(self_test_frame(height, width), "bgr")
        letterbox = Letterbox.fit(height, width, 96, 160)
        expected = np.zeros((96, 160, 3), np.uint8)
        letterbox.write(image, expected)
        worst = int(np.abs(run(image, letterbox).astype(int) - expected).max())
        if worst > TOLERANCE:
            raise EngineError(f"the kernel is {worst} grey levels off what the CPU computes")


@cache
def compiled_kernel(capability: str) -> bytes:
    """Machine code of the kernel for a compute capability such as `sm89`.

    Takes a few tenths of a second, once per process. Raises EngineError if NVRTC is not installed,
    too old for the GPU, or refuses the kernel.
    """
    try:
        from cuda.bindings import nvrtc

        return _compiled(nvrtc, capability)
    except (ImportError, OSError, RuntimeError) as error:  # how the bindings say that it is missing
        raise EngineError(
            f"NVRTC cannot be loaded ({_brief(error)}); pip install nvidia-cuda-nvrtc"
        ) from error


def _compiled(nvrtc: Any, capability: str) -> bytes:
    def checked(result: tuple[Any, ...]) -> Any:
        status, *values = result
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise EngineError(f"NVRTC: {status.name} for {capability}")
        return values[0] if values else None

    number = capability.removeprefix("sm")
    supported = checked(nvrtc.nvrtcGetSupportedArchs())
    if int(number) not in supported:
        version = ".".join(map(str, nvrtc.nvrtcVersion()[1:]))
        raise EngineError(f"NVRTC {version} does not compile for {capability}")
    name = _SOURCE.name.encode()
    program = checked(nvrtc.nvrtcCreateProgram(_SOURCE.read_bytes(), name, 0, [], []))
    try:
        checked(nvrtc.nvrtcCompileProgram(program, 1, [f"--gpu-architecture=sm_{number}".encode()]))
        code = b" " * checked(nvrtc.nvrtcGetCUBINSize(program))
        checked(nvrtc.nvrtcGetCUBIN(program, code))
    finally:
        checked(nvrtc.nvrtcDestroyProgram(program))
    return code


def _buffers(size_bytes: int) -> tuple[npt.NDArray[np.uint8], DeviceBuffer]:
    """Pinned and device memory for an image; both, or EngineError and none of them."""
    return pinned_array(size_bytes), DeviceBuffer(size_bytes)


@cache
def _driver() -> Any:
    from cuda.bindings import driver

    return driver


def _driver_call(name: str, *arguments: Any) -> Any:
    """What the CUDA driver's function `name` returns. Raises EngineError if it fails."""
    check_answers()
    try:
        driver = _driver()
        status, *values = getattr(driver, name)(*arguments)
    except (ImportError, OSError, RuntimeError) as error:  # no driver, or one that is too old
        raise EngineError(f"CUDA: {_brief(error)} ({name})") from error
    if status != driver.CUresult.CUDA_SUCCESS:
        raise EngineError(f"CUDA: {driver.cuGetErrorString(status)[1].decode()} ({name})")
    return values[0] if values else None


def _unload(module: Any) -> None:
    # After a failure of the device nothing can be released; the driver does it in the end.
    with suppress(EngineError):
        _driver_call("cuModuleUnload", module)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())

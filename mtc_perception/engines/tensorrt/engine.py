"""TensorRT and TensorRT-RTX on an NVIDIA GPU."""

import ctypes
import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.core.engine import Network, Outputs, TensorInfo, check_tensors
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.engines.tensorrt import cuda
from mtc_perception.engines.tensorrt.device_letterbox import DeviceLetterbox
from mtc_perception.engines.tensorrt.inspect import layer_details
from mtc_perception.engines.tensorrt.key import EngineKey, Profile, build_command
from mtc_perception.engines.tensorrt.library import (
    NAMES,
    TensorRtLibrary,
    deserialised,
    failure,
    import_library,
    library_log,
    require_flavours,
)
from mtc_perception.engines.tensorrt.store import EngineStore
from mtc_perception.util.errors import EngineError, one_line

_DTYPES = {"FLOAT": "float32", "HALF": "float16"}
_ALIGNMENT_BYTES = 256
_OTHER_MODEL = "different models of devices"
"""In the warning of TensorRT when it takes an engine for one of another GPU."""


def load(network: Network, threads: int | None) -> "TensorRtEngine":
    """Load the stored engine of `network` on this machine's GPU; `threads` mean nothing to it.

    Raises EngineError, or BundleError for a broken contract.
    """
    device = cuda.current_device()
    damages: list[str] = []
    library, serialised = stored_engine(network, device, EngineStore(), damages.append)
    engine = TensorRtEngine(network, library, device, serialised)
    engine.device += "".join(f", in place of {damage}" for damage in damages)
    return engine


def engine_key(network: Network, library: TensorRtLibrary, device: cuda.Device) -> EngineKey:
    """The key that an engine for `network` must have to run with `library` on `device`."""
    return EngineKey(
        model_sha256=sha256_hex(network.model),
        precision=network.precision,
        profile=Profile(1, network.height, network.width),
        flavour=library.flavour,
        version=library.version,
        gpu=device.name,
        multiprocessors=device.multiprocessors,
        memory_mib=device.memory_mib,
        compute_capability=(device.compute_capability,),
    )


def stored_engine(
    network: Network,
    device: cuda.Device,
    store: EngineStore,
    note: Callable[[str], None] = lambda _damage: None,
) -> tuple[TensorRtLibrary, bytes]:
    """The serialised engine for `network` on `device`, and the library that it is for.

    `note` is told of each damaged engine that comes before it. Raises EngineError with what is
    missing, for each library that is installed.
    """
    problems = []
    for flavour in require_flavours():
        try:
            library = import_library(flavour)
            check_supported(library, device)
            key = engine_key(network, library, device)
            return library, store.find(key, network.bundle, note)
        except EngineError as error:
            problems.append(str(error))
    raise EngineError("; ".join(problems))


def check_supported(library: TensorRtLibrary, device: cuda.Device) -> None:
    """Raise EngineError if there are no engines of the library for the GPU at all."""
    if library.flavour != "tensorrt_rtx":
        return  # its builder knows
    if device.compute_capability.upper() not in library.module.ComputeCapability.__members__:
        raise EngineError(
            f"{NAMES[library.flavour]} does not support {device.name} ({device.compute_capability})"
        )


def numpy_name(dtype: Any) -> str:
    """NumPy's name of a `DataType`."""
    name = str(dtype.name)
    return _DTYPES.get(name, name.lower())


def tensors_of(library: TensorRtLibrary, engine: Any) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """Inputs and outputs of an `ICudaEngine`."""
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
        shape = tuple(None if size < 0 else size for size in engine.get_tensor_shape(name))
        info = TensorInfo(name, numpy_name(engine.get_tensor_dtype(name)), shape)
        is_input = engine.get_tensor_mode(name) == library.module.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(info)
    return inputs, outputs


def place(tensors: Sequence[TensorInfo]) -> tuple[dict[str, int], int]:
    """Where tensors of one image begin in a block that holds them all, and the block's size.

    In bytes, each beginning aligned as the GPU likes it.
    """
    offsets, end = {}, 0
    for tensor in tensors:
        offsets[tensor.name] = end
        end += -(-_size_bytes(tensor) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    return offsets, end


def views(block: npt.NDArray[np.uint8], tensors: Sequence[TensorInfo]) -> Outputs:
    """The tensors of one image in a block laid out by `place`, without copies."""
    offsets, _ = place(tensors)
    arrays = {}
    for tensor in tensors:
        begin = offsets[tensor.name]
        content = block[begin : begin + _size_bytes(tensor)]
        arrays[tensor.name] = content.view(tensor.dtype).reshape(_shape(tensor))
    return Outputs(**arrays)


class TensorRtEngine:
    """One engine with its buffers bound once: one stream, no allocation per image.

    All outputs lie in one block, so that one copy brings them to the host; inference and that copy
    are one CUDA graph. The input comes by one of two ways, so its copy is not part of the graph.
    """

    name = "tensorrt"

    def __init__(
        self,
        network: Network,
        library: TensorRtLibrary,
        device: cuda.Device,
        serialised: bytes,
    ) -> None:
        self._library = library
        self._log = library_log(library)
        loading = self._log.mark()
        command = build_command(engine_key(network, library, device), network.bundle)
        engine = deserialised(library, serialised, f"build it again: {command}")
        inputs, outputs = tensors_of(library, engine)
        check_tensors(network, inputs, outputs)
        self._context: Any = engine.create_execution_context()
        if self._context is None:
            raise EngineError(failure(library, "cannot prepare the engine", loading))
        self._free_context = weakref.finalize(self, _free, self._context)

        shape = (1, network.height, network.width, 3)
        self.stream = cuda.Stream()
        """What the engine works on; events on it time the GPU."""
        self.input: npt.NDArray[np.uint8] = cuda.pinned_array(math.prod(shape)).reshape(shape)
        self._device_input = cuda.DeviceBuffer(self.input.nbytes)
        offsets, size_bytes = place(outputs)
        self._host_block = cuda.pinned_array(size_bytes)
        self._device_block = cuda.DeviceBuffer(size_bytes)
        self._outputs = views(self._host_block, outputs)
        addresses = {name: self._device_block.pointer + at for name, at in offsets.items()}
        addresses["image"] = self._device_input.pointer
        accepted = [self._context.set_tensor_address(*binding) for binding in addresses.items()]
        if None in inputs[0].shape:
            accepted.append(self._context.set_input_shape("image", shape))
        if not all(accepted):
            raise EngineError(failure(library, "refuses its buffers", loading))

        # TensorRT leaves some work to the first inference, which no graph may contain.
        self._enqueue()
        self.stream.synchronise()
        warnings = self._log.warnings(loading)
        self._graph = self._captured()
        self.precision: str = network.precision
        self.device = f"{library.title}, {device.name} ({device.compute_capability})"
        if self._graph is None:
            self.device += ", without a CUDA graph"
        self._letterbox: DeviceLetterbox | None = None
        try:
            self._letterbox = DeviceLetterbox(self.stream, device)
        except Exception as error:  # whatever keeps the GPU from it, the CPU can do it
            self.device += f", letterbox on the CPU ({one_line(error)})"
        else:
            self.device += ", letterbox on the GPU"
        # No reason to refuse: TensorRT also says so of an engine that was built on this very GPU,
        # the key has made sure of as much as can be known, and the self-test decides.
        if any(_OTHER_MODEL in warning for warning in warnings):
            self.device += ", TensorRT warns that the engine is of another model of GPU"
        self._image_on_device = False

    def prepare(self, image: SourceImage, letterbox: Letterbox) -> None:
        if self._letterbox is None:
            letterbox.write(image, self.input[0])
        else:
            self._letterbox.write(image, letterbox, self._device_input.pointer)
            self._image_on_device = True

    def start(self) -> None:
        self._check_open()
        if not self._image_on_device:
            self.stream.copy_to_device(self._device_input.pointer, self.input)
        self._image_on_device = False
        self.launch()

    def launch(self) -> None:
        """Put the inference of the image that is on the device on the stream, and nothing else.

        Raises EngineError.
        """
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch(self.stream)

    def wait(self) -> Outputs:
        self._check_open()
        self.stream.synchronise()
        return self._outputs

    def close(self) -> None:
        if self._context is None:
            return
        # Nothing may be taken away under work that still runs; after a failure nothing does.
        with suppress(EngineError):
            self.stream.synchronise()
        self._graph = None
        self._context = None
        self._free_context()
        if self._letterbox is not None:
            self._letterbox.close()
            self._letterbox = None
        self._device_input.close()
        self._device_block.close()
        self.stream.close()

    def details(self) -> str:
        """What the library's inspector says of the layers, as JSON."""
        return layer_details(self._library.module, self._context.engine)

    def _check_open(self) -> None:
        if self._context is None:
            raise EngineError("TensorRT: the engine is closed")

    def _enqueue(self) -> None:
        begin = self._log.mark()
        if not self._context.execute_async_v3(int(self.stream.handle)):
            raise EngineError(failure(self._library, "failed to start", begin))
        self.stream.copy_to_host(self._host_block, self._device_block.pointer)

    def _captured(self) -> cuda.Graph | None:
        """Inference and the copy of its outputs as a graph, None if they cannot be one."""
        capturable = getattr(self._context, "is_stream_capturable", None)  # of TensorRT-RTX only
        if capturable is not None and not capturable(int(self.stream.handle)):
            return None
        try:
            return self.stream.capture(self._enqueue)
        except EngineError:
            return None


def _free(context: Any) -> None:
    """Called with the last reference to an execution context, which goes away with this call."""
    if not cuda.answers():
        # Its destructor would wait for the device for ever: it is left to the end of the process.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))


def _shape(tensor: TensorInfo) -> tuple[int, ...]:
    """For one image; `check_tensors` has seen to it that nothing else is left open."""
    return (1, *(size for size in tensor.shape[1:] if size is not None))


def _size_bytes(tensor: TensorInfo) -> int:
    return math.prod(_shape(tensor)) * np.dtype(tensor.dtype).itemsize

"""ONNX Runtime on the CPU."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from mtc_perception.core.engine import Network, Outputs, TensorInfo, allocate_outputs, check_tensors
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.engines.cpu import available_physical_cores
from mtc_perception.util.errors import EngineError

_DTYPES = {"float": "float32", "double": "float64"}


def load(network: Network, threads: int | None) -> "OnnxRuntimeEngine":
    """Load `network` for the CPU. Raises EngineError, or BundleError for a broken contract."""
    return OnnxRuntimeEngine(network, threads or available_physical_cores())


class OnnxRuntimeEngine:
    """One session with its buffers bound once: no copies, no allocation per image."""

    name = "onnxruntime"

    def __init__(self, network: Network, threads: int) -> None:
        try:
            import onnxruntime as ort
        except (ImportError, OSError) as error:
            raise EngineError(
                f"the Python package onnxruntime cannot be imported ({error});"
                " pip install onnxruntime"
            ) from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads that spin take the cores from the rest of the vehicle, and where the cores
        # are busy they make inference itself slower by far.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # What was checked is ONNX: the same bytes must not be read as the runtime's own format.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.log_severity_level = 3  # errors; they are raised, warnings help nobody here
        try:
            self._session: Any = ort.InferenceSession(
                network.model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime documents no narrower type
            raise EngineError(f"ONNX Runtime cannot load the network: {error}") from error
        outputs = [_tensor_info(node) for node in self._session.get_outputs()]
        check_tensors(network, [_tensor_info(n) for n in self._session.get_inputs()], outputs)
        # On the CPU it computes float16 graphs in float32.
        self.precision = "fp32" if network.precision == "fp16" else network.precision
        self.device = f"ONNX Runtime {ort.__version__}, CPU, {threads} threads"

        self.input: npt.NDArray[np.uint8] = np.zeros(
            (1, network.height, network.width, 3), np.uint8
        )
        buffers = allocate_outputs(outputs)
        self._outputs = Outputs(**buffers)
        self._binding: Any = self._session.io_binding()
        self._binding.bind_input(
            "image", "cpu", 0, np.uint8, self.input.shape, self.input.ctypes.data
        )
        for name, buffer in buffers.items():
            self._binding.bind_output(
                name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data
            )
        # The session's own asynchronous call takes no bound buffers, so a thread stands in.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnxruntime")
        self._running: Future[None] | None = None

    def prepare(self, image: SourceImage, letterbox: Letterbox) -> None:
        letterbox.write(image, self.input[0])

    def start(self) -> None:
        if self._session is None:
            raise EngineError("ONNX Runtime: the engine is closed")
        self._running = self._worker.submit(self._session.run_with_iobinding, self._binding)

    def wait(self) -> Outputs:
        if self._running is None:
            raise EngineError("ONNX Runtime: nothing was started")
        try:
            self._running.result()
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        finally:
            self._running = None
        return self._outputs

    def close(self) -> None:
        self._worker.shutdown(wait=True)
        self._binding = None
        self._session = None


def _tensor_info(node: Any) -> TensorInfo:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(length if isinstance(length, int) else None for length in node.shape)
    return TensorInfo(node.name, _DTYPES.get(kind, kind), shape)

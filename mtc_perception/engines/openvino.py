"""OpenVINO on the CPU."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mtc_perception.core.bundle import Precision
from mtc_perception.core.engine import Network, Outputs, TensorInfo, allocate_outputs, check_tensors
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.engines.cpu import available_physical_cores
from mtc_perception.util.errors import EngineError


@cache
def runtime() -> Any:
    """The one `openvino.Core` of this process.

    Its CPU plugin puts a signal stack under the thread that loads it, and takes it away when it is
    freed. Of several that are not freed in reverse order, the stack in use goes first, and the next
    signal ends the process (seen with OpenVINO 2026.4.1).
    """
    import openvino as ov

    return ov.Core()


def load(network: Network, threads: int | None) -> "OpenVinoEngine":
    """Compile `network` for the CPU. Raises EngineError, or BundleError for a broken contract."""
    return OpenVinoEngine(network, threads or available_physical_cores())


class OpenVinoEngine:
    """One compiled network with its buffers bound once: no copies, no allocation per image."""

    name = "openvino"

    def __init__(self, network: Network, threads: int) -> None:
        try:
            import openvino as ov
        except (ImportError, OSError) as error:
            raise EngineError(
                f"the Python package openvino cannot be imported ({error}); pip install openvino"
            ) from error
        try:
            core = runtime()
            model = core.read_model(network.model)
            if model.inputs[0].partial_shape.is_dynamic:
                model.reshape([1, network.height, network.width, 3])
        except Exception as error:  # the runtime documents no narrower type
            raise EngineError(f"OpenVINO cannot read the network: {_brief(error)}") from error
        outputs = [_tensor_info(port) for port in model.outputs]
        check_tensors(network, [_tensor_info(port) for port in model.inputs], outputs)
        try:
            self._compiled, self.precision = _compile(core, model, network.precision, threads)
            self._request: Any = self._compiled.create_infer_request()
            cpu = core.get_property("CPU", "FULL_DEVICE_NAME").strip()
        except Exception as error:
            raise EngineError(f"OpenVINO cannot compile the network: {_brief(error)}") from error
        self.device = f"OpenVINO {ov.__version__.split('-')[0]}, {cpu}, {threads} threads"

        self.input: npt.NDArray[np.uint8] = np.zeros(
            (1, network.height, network.width, 3), np.uint8
        )
        buffers = allocate_outputs(outputs)
        self._outputs = Outputs(**buffers)
        self._request.set_tensor("image", ov.Tensor(self.input, shared_memory=True))
        for name, buffer in buffers.items():
            self._request.set_tensor(name, ov.Tensor(buffer, shared_memory=True))

    def prepare(self, image: SourceImage, letterbox: Letterbox) -> None:
        letterbox.write(image, self.input[0])

    def start(self) -> None:
        if self._request is None:
            raise EngineError("OpenVINO: the engine is closed")
        try:
            self._request.start_async()
        except Exception as error:
            raise EngineError(f"OpenVINO failed to start: {_brief(error)}") from error

    def wait(self) -> Outputs:
        if self._request is None:
            raise EngineError("OpenVINO: the engine is closed")
        try:
            self._request.wait()
        except Exception as error:
            raise EngineError(f"OpenVINO failed: {_brief(error)}") from error
        return self._outputs

    def close(self) -> None:
        self._request = None
        self._compiled = None


def _compile(core: Any, model: Any, precision: Precision, threads: int) -> tuple[Any, Precision]:
    """The compiled model and the precision that it runs at."""

    def compiled(float_type: str) -> Any:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # Threads are pinned to the first cores, in every process to the same ones: two engines
            # of one thread each would share a core, and the others would idle.
            "ENABLE_CPU_PINNING": threads >= available_physical_cores(),
            "INFERENCE_PRECISION_HINT": float_type,
        }
        return core.compile_model(model, "CPU", settings)

    if precision == "fp16":
        candidate = compiled("f16")
        if candidate.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f16":
            return candidate, "fp16"
        # A CPU without float16 would be given bfloat16 instead: far less exact.
    # Without the hint OpenVINO runs float32 graphs in bfloat16, too, where the CPU has it.
    return compiled("f32"), "int8" if precision == "int8" else "fp32"


def _tensor_info(port: Any) -> TensorInfo:
    shape = tuple(
        None if dimension.is_dynamic else dimension.get_length() for dimension in port.partial_shape
    )
    return TensorInfo(port.any_name, port.element_type.to_dtype().name, shape)


def _brief(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

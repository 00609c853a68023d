"""Loads a network into an engine, untested: what drives comes from `engines.open`."""

import importlib

from mtc_perception.core.bundle import EngineName
from mtc_perception.core.engine import Engine, Network
from mtc_perception.util.errors import EngineError, UserError, one_line

AUTO_ORDER: tuple[EngineName, ...] = ("tensorrt", "openvino", "onnxruntime")
"""All engines; `auto` takes the first that runs."""
CPU_ENGINES: tuple[EngineName, ...] = ("openvino", "onnxruntime")
"""Where a failed engine may be replaced, in this order."""
# Each module has `load(network, threads) -> Engine`; imported only when tried, since every
# runtime is an optional dependency.
_MODULES: dict[str, str] = {
    "tensorrt": "mtc_perception.engines.tensorrt.engine",
    "openvino": "mtc_perception.engines.openvino",
    "onnxruntime": "mtc_perception.engines.onnxruntime",
}


def load_engine(network: Network, name: str, threads: int | None = None) -> Engine:
    """Load `network` into the engine `name`, without testing what it computes.

    `threads` defaults to the physical cores this process may use. Raises EngineError if the
    engine is not available here, BundleError if the graph breaks its contract.
    """
    check_offered(name)
    if threads is not None and threads < 1:
        raise EngineError(f"threads must be at least 1, got {threads}")
    try:
        engine: Engine = importlib.import_module(_MODULES[name]).load(network, threads)
    except UserError:
        raise
    except Exception as error:  # whatever a runtime's bindings do, another engine may work
        raise EngineError(one_line(error)) from error
    return engine


def check_offered(name: str) -> None:
    """Raise EngineError unless there is an engine of this name."""
    if name not in _MODULES:
        raise EngineError(f"unknown engine {name!r}; choose auto, {', '.join(AUTO_ORDER)}")

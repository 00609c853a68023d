"""What an engine's layers really run in, as the library's inspector tells on a GPU."""

import json
from collections import Counter
from typing import Any

from mtc_perception.engines.tensorrt.cuda import current_device
from mtc_perception.engines.tensorrt.key import Flavour
from mtc_perception.engines.tensorrt.library import deserialised, import_library
from mtc_perception.util.errors import EngineError

_TYPES = {
    "float": "fp32",
    "fp32": "fp32",
    "half": "fp16",
    "fp16": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "int8": "int8",
    "fp8": "fp8",
}
"""The inspector's words for the types that arithmetic is done in; others are shapes and indices."""


def layer_precisions(engine: bytes, flavour: Flavour) -> dict[str, int]:
    """How many layers of a serialised engine run in each precision.

    Raises EngineError without a GPU, or if the engine does not fit this machine.
    """
    current_device()
    library = import_library(flavour)
    return count_precisions(layer_details(library.module, deserialised(library, engine)))


def layer_details(trt: Any, engine: Any) -> str:
    """What the inspector of the library `trt` says of an `ICudaEngine`'s layers, as JSON."""
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def count_precisions(information: str) -> dict[str, int]:
    """Layers by precision, from the inspector's JSON (TensorRT 10 and 11 write it differently).

    A layer runs in the narrowest type that it reads or writes: TensorRT fuses conversions into
    their neighbours. Raises EngineError for an engine that was built without such detail, and for
    what is no JSON.
    """
    try:
        layers = json.loads(information).get("Layers", [])
    except ValueError as error:
        raise EngineError(f"what the inspector says of the layers is no JSON: {error}") from error
    counts = Counter(_precision(layer) for layer in layers if isinstance(layer, dict))
    counts.pop(None, None)
    if not counts:
        raise EngineError("the engine holds no details of its layers")
    return {str(name): count for name, count in sorted(counts.items(), key=str)}


def _precision(layer: dict[str, Any]) -> str | None:
    found: set[str] = set()
    for tensor in (*layer.get("Inputs", ()), *layer.get("Outputs", ())):
        text = tensor.get("DataType") or tensor.get("Datatype") or tensor.get("Format/Datatype", "")
        words = text.lower().replace(".", " ").split()
        found.update(_TYPES[word] for word in words if word in _TYPES)
    order = ("int8", "fp8", "fp16", "bf16", "fp32")
    return next((name for name in order if name in found), None)

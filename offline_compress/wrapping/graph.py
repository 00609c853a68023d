"""ONNX files of others: read, brought to fixed sizes, and put between two graphs of our own."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, compose, helper, version_converter
from onnx.utils import Extractor
from torch import nn

from mtc_perception.core.bundle import MOST_PIXELS
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import read_regular
from offline_compress.export import OPSET

_DTYPES = {TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16}
_NEWEST_EXPORTED = 20
"""Opset that PyTorch's exporter knows last."""
_STANDARD = ("", "ai.onnx")
GIVEN = "network/"
"""Before the names of the network's outputs, which may be those of the contract."""
_NEWEST_FORMAT = 10
"""IR version that the oldest runtimes of the requirements read."""


def read_network(path: Path) -> onnx.ModelProto:
    """The ONNX file, with all its weights inside, at `OPSET` or a later opset.

    Raises UserError if it is none, needs other operators than ONNX's own, or cannot be converted.
    """
    try:
        model = onnx.load_model_from_string(read_regular(path))
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except Exception as error:  # of protobuf and of the checker
        raise UserError(f"{path} is no ONNX file that can be used: {error}") from None
    used = {node.domain for node in model.graph.node}
    if foreign := sorted(used - {*_STANDARD}):
        raise UserError(
            f"{path} needs operators of {', '.join(foreign)}: export it with ONNX's own alone"
        )
    model.ir_version = min(model.ir_version, _NEWEST_FORMAT)
    opset = opset_of(model)
    if opset < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except Exception as error:
            raise UserError(
                f"{path} has opset {opset} and cannot be brought to {OPSET} ({error}): export it"
                f" with opset {OPSET}"
            ) from None
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators."""
    return next(entry.version for entry in model.opset_import if entry.domain in _STANDARD)


def fixed(
    model: onnx.ModelProto, name: str, height: int | None, width: int | None
) -> tuple[onnx.ModelProto, int, int]:
    """The network for one image, and the height and width of its input.

    Raises UserError if it has not one float input [1, 3, H, W], or where its sizes are not those
    given, or neither fixed nor given.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in stored]
    shapes = {one.name: _shape(one) for one in inputs}
    told = ", ".join(f"{one} {shape}" for one, shape in shapes.items())
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type not in _DTYPES:
        raise UserError(f"{name}: one input of floats is needed, the network has {told}")
    shape = shapes[inputs[0].name]
    if len(shape) != 4 or shape[0] not in (None, 1) or shape[1] not in (None, 3):
        raise UserError(f"{name}: an input [1, 3, H, W] is needed, the network has {told}")
    sizes = []
    for side, found, given in (("height", shape[2], height), ("width", shape[3], width)):
        if found is None and given is None:
            raise UserError(f"{name} leaves the {side} of its input open: give input.{side}")
        if found and given and found != given:
            raise UserError(f"input.{side} is {given}, that of the network {found}: leave it out")
        if found and found > MOST_PIXELS:
            raise UserError(f"{name}: its input has {side} {found}, at most {MOST_PIXELS} can be")
        sizes.append(found or given or 0)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    dtype = inputs[0].type.tensor_type.elem_type
    del result.graph.input[:], result.graph.value_info[:]
    result.graph.input.append(helper.make_tensor_value_info(inputs[0].name, dtype, [1, 3, *sizes]))
    for output in result.graph.output:
        output.type.tensor_type.ClearField("shape")
    return result, sizes[0], sizes[1]


def input_dtype(model: onnx.ModelProto) -> torch.dtype:
    """Of the one input of a `fixed` network."""
    return _DTYPES[model.graph.input[0].type.tensor_type.elem_type]


def answers(model: onnx.ModelProto, image: npt.NDArray[np.floating]) -> dict[str, torch.Tensor]:
    """All outputs of a `fixed` network for its input. Raises UserError if it does not run."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = session.run(None, {model.graph.input[0].name: image})
    except Exception as error:  # the runtime documents no narrower type
        raise UserError(f"ONNX Runtime does not run the network: {error}") from None
    names = [one.name for one in model.graph.output]
    return {name: torch.from_numpy(np.asarray(one)) for name, one in zip(names, found, strict=True)}


def exported(
    module: nn.Module,
    examples: Sequence[torch.Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
) -> onnx.ModelProto:
    """A module as ONNX of that opset, for inputs of the very sizes of `examples`."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(examples),
            buffer,  # type: ignore[arg-type]
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=min(opset, _NEWEST_EXPORTED),
            dynamo=False,
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    return model if opset_of(model) == opset else version_converter.convert_version(model, opset)


def joined(
    before: onnx.ModelProto,
    network: onnx.ModelProto,
    behind: onnx.ModelProto,
    outputs: Mapping[str, Sequence[int]],
) -> onnx.ModelProto:
    """The three in a row, as one graph from `image` to `outputs`, given their shapes.

    `before` has one output for the network's one input; the inputs of `behind` have the names of
    the network's outputs behind `GIVEN`. Whatever of the network no output needs is gone.
    """
    parts = []
    for number, part in enumerate((before, network, behind)):
        copy = onnx.ModelProto()
        copy.CopyFrom(part)
        if part is network:  # what is left of its outputs has sizes now
            del copy.graph.output[:]
            copy.graph.output.extend(behind.graph.input)
            for output in copy.graph.output:
                output.name = output.name.removeprefix(GIVEN)
        copy.ir_version = max(one.ir_version for one in (before, network, behind))
        del copy.opset_import[:]
        copy.opset_import.append(helper.make_opsetid("", opset_of(network)))
        parts.append(compose.add_prefix(copy, f"{'bnd'[number]}/"))
    first, middle, last = parts
    to_network = [(first.graph.output[0].name, middle.graph.input[0].name)]
    whole = compose.merge_models(first, middle, to_network)
    to_end = [(f"n/{one.name.removeprefix(GIVEN)}", f"d/{one.name}") for one in behind.graph.input]
    whole = compose.merge_models(whole, last, to_end)
    whole = Extractor(whole).extract_model(["b/image"], [f"d/{name}" for name in outputs])
    _rename(whole.graph, {"b/image": "image"} | {f"d/{name}": name for name in outputs})
    del whole.graph.value_info[:], whole.opset_import[1:]  # one entry came from each part
    for output in whole.graph.output:
        shape = output.type.tensor_type.shape
        del shape.dim[:]
        for size in outputs[output.name]:
            shape.dim.add().dim_value = size
    onnx.checker.check_model(whole, full_check=True)
    return whole


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                places[place] = names.get(name, name)
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    return [one.dim_value or None for one in value.type.tensor_type.shape.dim]

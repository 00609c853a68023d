"""What a network's ONNX file may hold: all of it, and nothing that lies elsewhere.

ONNX lets a tensor name a file instead of holding its numbers. Runtimes look for it in the working
directory of the process, and nothing of it is covered by the sha256 in a bundle's manifest.
"""

from typing import NamedTuple

from mtc_perception.util.errors import BundleError

_MOST_FIELDS = 2_000_000
"""A network of thousands of layers has a tenth of it; one pass takes a second per million."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}

# The messages of onnx.proto below which tensors lie: the kind of each field that holds one.
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_GRAPH, _EXTERNAL_DATA, _DATA_LOCATION = 7, 13, 14
_MOST_TAG = 2**32 - 1
"""Readers drop the bits above these: what is another field here would be external data there."""


class _Part(NamedTuple):
    """A message within the file, from byte `begin` to `end`."""

    kind: str
    begin: int
    end: int


def check_self_contained(model: bytes) -> None:
    """Raise BundleError unless `model` is an ONNX file that refers to no other file.

    A file is one if it consists of whole fields, and one of them is a graph.
    """
    parts = [_Part("Model", 0, len(model))]
    fields = 0
    has_graph = False
    while parts:
        kind, position, end = parts.pop()
        children = _CHILDREN[kind]
        while position < end:
            fields += 1
            if fields > _MOST_FIELDS:
                raise BundleError(f"the ONNX file has more than {_MOST_FIELDS} fields")
            tag, position = _varint(model, position, end)
            number, wire = tag >> 3, tag & 7
            if number == 0 or tag > _MOST_TAG:
                raise _no_onnx()
            if wire == _VARINT:
                value, position = _varint(model, position, end)
            else:
                value = _FIXED_BYTES.get(wire, 0)
                if wire == _BYTES:
                    value, position = _varint(model, position, end)
                elif not value:
                    raise _no_onnx()
                begin, position = position, position + value
                if position > end:
                    raise _no_onnx()
                if wire == _BYTES and number in children:
                    parts.append(_Part(children[number], begin, position))
                    has_graph |= kind == "Model" and number == _GRAPH
            if kind == "Tensor" and (
                number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value)
            ):
                raise BundleError(
                    "the ONNX file keeps weights in another file (external data), which a bundle"
                    " cannot vouch for: save the network with its weights inside"
                )
    if not has_graph:
        raise _no_onnx()


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """The number at a position and the position behind it."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _no_onnx()


def _no_onnx() -> BundleError:
    return BundleError("the network is no ONNX file")

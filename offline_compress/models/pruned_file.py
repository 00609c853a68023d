"""Weights of a pruned network of any make in one file, which says by itself what its shape is."""

from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from mtc_perception.util.errors import UserError
from mtc_perception.util.files import replacing
from offline_compress.models.shapes import difference, narrow

Network = TypeVar("Network", bound=nn.Module)


def save_pruned(path: Path, model: nn.Module) -> None:
    """Write weights and buffers of a network, pruned or not, as a safetensors file, atomically."""
    tensors = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    content = save({name: value.contiguous() for name, value in tensors.items()})
    with replacing(path, durable=True, alone=True) as part:
        part.write_bytes(content)


def load_pruned(path: Path, unpruned: Network) -> Network:
    """Give `unpruned`, as its own program makes it, the shape and the weights of a file, in place.

    Needs nothing of the pruner. Returns `unpruned`. Raises UserError, before anything is changed,
    for a file that does not load, or that is of another network.
    """
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} does not load: {error}") from None
    own = unpruned.state_dict()
    shapes = {
        name: list(value.shape)
        for name, value in sorted(tensors.items())
        if name in own and value.shape != own[name].shape
    }
    others = {name: value for name, value in tensors.items() if name not in shapes}
    missing = {name: value for name, value in own.items() if name not in shapes}
    if reason := difference(missing, others):
        raise UserError(f"{path} is of another network: {reason}")
    narrow(unpruned, shapes)
    unpruned.load_state_dict(tensors)
    return unpruned

"""What layers do to the labels of tensors, by the function that computes them."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from offline_compress.channels.labels import Labels, varies


class FollowedLayers(Protocol):
    """The tensors of a forward pass, their labels, and whose weights are used."""

    labels: Labels

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Labels of all elements of a tensor, `compact`."""

    def layer_of(self, *weights: torch.Tensor | None) -> str | None:
        """The one layer that the weights are those of; None for other tensors, or shared ones."""

    def place(self) -> str:
        """Where in the network this happens, in words."""


Rule = Callable[..., torch.Tensor]
"""(followed, result, *arguments of the function) -> labels of the result."""


def _convolution(
    followed: FollowedLayers,
    result: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor:
    return _filters(followed, result, input, weight, bias, groups, weight.shape[0])


def _transposed(
    followed: FollowedLayers,
    result: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> torch.Tensor:
    if groups > 1 and weight.shape[1] > 1:  # only depthwise ones: blocks would lie along both sides
        return _keep(followed, result, input, weight)
    return _filters(followed, result, input, weight, bias, groups, weight.shape[1] * groups)


def _filters(
    followed: FollowedLayers,
    result: torch.Tensor,
    tensor: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    groups: int,
    width: int,
) -> torch.Tensor:
    layer = followed.layer_of(weight, bias)
    read = _profile(followed, tensor, 1)
    if layer is None or tensor.ndim != weight.ndim:
        return _keep(followed, result, tensor, weight)
    made = followed.labels.slot(layer, "out", width)
    if groups == 1:
        _read(followed, layer, read)
    else:  # A block of outputs is made of the same block of inputs alone: they go together.
        blocks = made.view(groups, -1)
        first = blocks[:, :1]
        followed.labels.unite(first, blocks)
        followed.labels.unite(first, read.view(groups, -1))
        alone = (read.view(groups, -1) == 0).any(1)
        followed.labels.keep(first[alone], f"{layer} reads what keeps its channels")
    return _along(made, result, 1)


def _linear(
    followed: FollowedLayers,
    result: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    layer = followed.layer_of(weight, bias)
    if layer is None:
        return _keep(followed, result, input, weight)
    _read(followed, layer, _profile(followed, input, -1))
    return _along(followed.labels.slot(layer, "out", len(weight)), result, -1)


def _read(followed: FollowedLayers, layer: str, read: torch.Tensor) -> None:
    slot = followed.labels.slot(layer, "in", len(read))
    followed.labels.unite(slot, read)
    followed.labels.keep(slot[read == 0], f"{layer} reads other channels at the same place")


def _norm(
    followed: FollowedLayers,
    result: torch.Tensor,
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *_: Any,
    **__: Any,
) -> torch.Tensor:
    tensors = [t for t in (running_mean, running_var, weight, bias) if t is not None]
    if not tensors:
        return followed.of(input)
    layer = followed.layer_of(*tensors)
    if layer is None:
        return _keep(followed, result, input, *tensors)
    return _own(followed, layer, result, _profile(followed, input, 1))


def _group_norm(
    followed: FollowedLayers,
    result: torch.Tensor,
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    # Without weights of its own, nothing would tell a reloaded network how many groups remain.
    layer = followed.layer_of(weight, bias) if weight is not None else None
    if layer is None:
        return _keep(followed, result, input)
    made = _own(followed, layer, result, _profile(followed, input, 1))
    blocks = followed.labels.slot(layer, "out", input.shape[1]).view(num_groups, -1)
    followed.labels.unite(blocks[:, :1], blocks)
    return made


def _layer_norm(
    followed: FollowedLayers,
    result: torch.Tensor,
    input: torch.Tensor,
    normalized_shape: Any,
    *_: Any,
    **__: Any,
) -> torch.Tensor:
    labels = followed.of(input)
    last = len(tuple(normalized_shape))
    if any(d >= input.ndim - last for d in varies(labels)):
        followed.labels.keep(labels, f"normalised over all channels in {followed.place()}")
        return torch.zeros_like(labels)
    return labels


def _prelu(
    followed: FollowedLayers, result: torch.Tensor, input: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    if weight.numel() == 1:
        return followed.of(input)
    layer = followed.layer_of(weight)
    if layer is None:
        return _keep(followed, result, input, weight)
    return _own(followed, layer, result, _profile(followed, input, 1))


def _dropout(
    followed: FollowedLayers, result: torch.Tensor, input: torch.Tensor, *_: Any, **__: Any
) -> torch.Tensor:
    return followed.of(input)


def _own(
    followed: FollowedLayers, layer: str, result: torch.Tensor, read: torch.Tensor
) -> torch.Tensor:
    """Of a layer with a parameter for each channel."""
    slot = followed.labels.slot(layer, "out", len(read))
    followed.labels.unite(slot, read)
    followed.labels.keep(slot[read == 0], f"{layer} reads what keeps its channels")
    return _along(slot, result, 1)


def _profile(followed: FollowedLayers, tensor: torch.Tensor, d: int) -> torch.Tensor:
    """[C] labels along a dimension."""
    return followed.labels.column(followed.of(tensor), d, followed.place())


def _along(slot: torch.Tensor, result: torch.Tensor, d: int) -> torch.Tensor:
    shape = [1] * result.ndim
    shape[d] = len(slot)
    return slot.view(shape).expand(result.shape)


def _keep(followed: FollowedLayers, result: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
    for tensor in tensors:
        followed.labels.keep(
            followed.of(tensor),
            f"read with weights that are computed or shared in {followed.place()}",
        )
    return torch.zeros((), dtype=torch.int64).expand(result.shape)


RULES: dict[Any, Rule] = {
    torch.conv1d: _convolution,
    torch.conv2d: _convolution,
    torch.conv3d: _convolution,
    torch.conv_transpose1d: _transposed,
    torch.conv_transpose2d: _transposed,
    torch.conv_transpose3d: _transposed,
    F.linear: _linear,
    F.batch_norm: _norm,
    F.instance_norm: _norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.prelu: _prelu,
    F.dropout: _dropout,
    F.dropout1d: _dropout,
    F.dropout2d: _dropout,
    F.dropout3d: _dropout,
    F.alpha_dropout: _dropout,
}

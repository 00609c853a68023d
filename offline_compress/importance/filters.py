"""The weights of layers, seen as filters."""

from typing import TypeGuard

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Filtering = _ConvNd | nn.Linear


def has_filters(layer: nn.Module | None) -> TypeGuard[Filtering]:
    """Whether a layer makes channels of channels, not norms or gates those that there are."""
    return isinstance(layer, Filtering)


def filters(layer: Filtering, weight: torch.Tensor) -> torch.Tensor:
    """`weight` of a layer, or its gradient, as [output, input, taps].

    A depthwise layer has 1 input per output.
    """
    if isinstance(layer, _ConvTransposeNd) and layer.groups == 1:
        weight = weight.transpose(0, 1)
    return weight.flatten(2) if weight.ndim > 2 else weight[..., None]

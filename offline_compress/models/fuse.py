"""Deployment form of a network: parallel branches of training become one convolution each."""

import copy

import torch
from torch import nn

from offline_compress.models.blocks import ConvNorm, RepConv


def fuse(model: nn.Module) -> nn.Module:
    """A copy in eval mode that computes the same with every `RepConv` as one convolution.

    BatchNorms elsewhere stay: every exporter folds them.
    """
    fused = copy.deepcopy(model).eval()
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, RepConv):
                setattr(parent, name, nn.Sequential(_merged(child), child.act))
    return fused


@torch.no_grad()
def _merged(block: RepConv) -> nn.Conv2d:
    weight, bias = _folded(block.wide)
    point_weight, point_bias = _folded(block.point)
    weight[:, :, 1:2, 1:2] += point_weight
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
    conv.weight.copy_(weight)
    conv.bias.copy_(bias + point_bias)  # type: ignore[union-attr]
    return conv.to(weight).eval()


def _folded(layer: ConvNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the convolution that a convolution and its BatchNorm amount to."""
    conv, norm = layer[0], layer[1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale

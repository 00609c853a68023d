"""Encoders: backbone features C3..C5 to one pyramid P3..P5 of equal width."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from offline_compress.models.blocks import ConvNorm, CrossStage


class PathAggregation(nn.Module):
    """Top-down and bottom-up feature pyramid (PANet, arXiv 1803.01534) with additive fusion."""

    def __init__(self, widths: Sequence[int], width: int, depth: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvNorm(c, width, 1) for c in widths)
        self.top_down = nn.ModuleList(CrossStage(width, width, depth) for _ in widths[1:])
        self.down = nn.ModuleList(ConvNorm(width, width, 3, 2) for _ in widths[1:])
        self.bottom_up = nn.ModuleList(CrossStage(width, width, depth) for _ in widths[1:])

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """C3..C5 -> P3..P5, each [N, width, H / stride, W / stride]."""
        pyramid = [lateral(f) for lateral, f in zip(self.lateral, features, strict=True)]
        for level in range(len(pyramid) - 2, -1, -1):
            upper = F.interpolate(pyramid[level + 1], scale_factor=2.0, mode="nearest")
            pyramid[level] = self.top_down[level](pyramid[level] + upper)
        for level in range(1, len(pyramid)):
            lower = self.down[level - 1](pyramid[level - 1])
            pyramid[level] = self.bottom_up[level - 1](pyramid[level] + lower)
        return pyramid

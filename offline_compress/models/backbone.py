"""Backbones: image to features C2..C5 at strides 4, 8, 16 and 32."""

from collections.abc import Sequence

import torch
from torch import nn

from offline_compress.models.blocks import ConvNorm, CrossStage, PyramidPooling


class PlainBackbone(nn.Module):
    """Four stages of cross-stage-partial blocks of plain convolutions.

    Args:
        stem: channels at stride 2.
        widths: channels of C2, C3, C4, C5.
        depths: residual blocks in each stage.
    """

    def __init__(self, stem: int, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.stem = ConvNorm(3, stem, 3, 2)
        stages: list[nn.Module] = []
        c_in = stem
        for width, depth in zip(widths, depths, strict=True):
            stages.append(
                nn.Sequential(ConvNorm(c_in, width, 3, 2), CrossStage(width, width, depth))
            )
            c_in = width
        self.stages = nn.ModuleList(stages)
        self.context = PyramidPooling(c_in, c_in)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """[N, 3, H, W] normalised -> C2..C5."""
        x = self.stem(image)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        features[-1] = self.context(features[-1])
        return features

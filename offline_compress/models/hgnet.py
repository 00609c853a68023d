"""HGNetV2, the backbone of RT-DETR (arXiv 2304.08069, 2407.17140): image to C2..C5.

Module names are those of the public weights, so that these load as they are.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class ConvBatchNorm(nn.Module):
    """Convolution, BatchNorm and, if `act`, ReLU. An even kernel is not padded."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            c_in, c_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(c_out)
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class LightConv(nn.Module):
    """1x1 convolution, then a depthwise one; only the second has a nonlinearity."""

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = ConvBatchNorm(c_in, c_out, 1, act=False)
        self.conv2 = ConvBatchNorm(c_out, c_out, kernel, groups=c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x))


class Stem(nn.Module):
    """Image to stride 4: a pooled path and a learnt one, joined."""

    def __init__(self, middle: int, c_out: int) -> None:
        super().__init__()
        self.stem1 = ConvBatchNorm(3, middle, 3, 2)
        self.stem2a = ConvBatchNorm(middle, middle // 2, 2)
        self.stem2b = ConvBatchNorm(middle // 2, middle, 2)
        self.stem3 = ConvBatchNorm(2 * middle, middle, 3, 2)
        self.stem4 = ConvBatchNorm(middle, c_out, 1)
        self.pool = nn.MaxPool2d(2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # Even kernels: one row and column of zeros at the bottom right keep the size.
        x = F.pad(self.stem1(image), (0, 1, 0, 1))
        learnt = self.stem2b(F.pad(self.stem2a(x), (0, 1, 0, 1)))
        return self.stem4(self.stem3(torch.cat((self.pool(x), learnt), 1)))


class Block(nn.Module):
    """A chain of convolutions, all of whose intermediate results are aggregated."""

    def __init__(
        self, c_in: int, middle: int, c_out: int, depth: int, light: bool, residual: bool
    ) -> None:
        super().__init__()
        inputs = [c_in] + [middle] * (depth - 1)
        self.layers = nn.ModuleList(
            LightConv(c, middle, 5) if light else ConvBatchNorm(c, middle, 3) for c in inputs
        )
        self.aggregation = nn.Sequential(
            ConvBatchNorm(c_in + depth * middle, c_out // 2, 1),
            ConvBatchNorm(c_out // 2, c_out, 1),
        )
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        results = [x]
        for layer in self.layers:
            results.append(layer(results[-1]))
        out = self.aggregation(torch.cat(results, 1))
        return out + x if self.residual else out


class HGStage(nn.Module):
    """Blocks at one stride, after halving the resolution unless `downsample` is False."""

    def __init__(
        self,
        c_in: int,
        middle: int,
        c_out: int,
        blocks: int,
        depth: int,
        light: bool,
        downsample: bool,
    ) -> None:
        super().__init__()
        self.downsample = (
            ConvBatchNorm(c_in, c_in, 3, 2, groups=c_in, act=False) if downsample else nn.Identity()
        )
        self.blocks = nn.Sequential(
            *(
                Block(c_out if i else c_in, middle, c_out, depth, light, residual=i > 0)
                for i in range(blocks)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.downsample(x))


class HGNetV2(nn.Module):
    """HGNetV2 without its classifier.

    Args:
        stem: channels at stride 2, and behind the stem at stride 4.
        middle: channels inside the blocks of each of the four stages.
        widths: channels of C2, C3, C4, C5.
        blocks: blocks per stage.
        depth: convolutions per block.
        light: whether the last two stages use 1x1 and depthwise 5x5 convolutions, as HGNetV2-L
            does, instead of plain 3x3 ones.
    """

    def __init__(
        self,
        stem: Sequence[int],
        middle: Sequence[int],
        widths: Sequence[int],
        blocks: Sequence[int],
        depth: int,
        light: bool,
    ) -> None:
        super().__init__()
        self.stem = Stem(*stem)
        inputs = [stem[1], *widths[:-1]]
        self.stages = nn.ModuleList(
            HGStage(c_in, mid, c_out, count, depth, light and index > 1, downsample=index > 0)
            for index, (c_in, mid, c_out, count) in enumerate(
                zip(inputs, middle, widths, blocks, strict=True)
            )
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """[N, 3, H, W] normalised -> C2..C5 at strides 4, 8, 16, 32."""
        x = self.stem(image)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

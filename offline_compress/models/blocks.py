"""Convolutional building blocks. Plain 3x3 convolutions on purpose: on CPUs they run, and train in
bfloat16, several times faster per multiply than depthwise ones, and every slice can be pruned."""

import torch
from torch import nn


class ConvNorm(nn.Sequential):
    """Convolution, BatchNorm and, unless `act` is None, a nonlinearity."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 3,
        stride: int = 1,
        act: type[nn.Module] | None = nn.ReLU,
        groups: int = 1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(c_out, eps=eps),
            act(inplace=True) if act else nn.Identity(),
        )


class Residual(nn.Module):
    """Two 3x3 convolutions with a skip connection; width unchanged.

    What it reads follows a ReLU, so that without the convolutions it is the identity.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(channels, hidden)
        self.expand = ConvNorm(hidden, channels, act=None)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x + self.expand(self.reduce(x)))


class CrossStage(nn.Module):
    """Cross-stage-partial block (CSPNet, arXiv 1911.11929): half the channels skip the residuals.

    The halves come from two convolutions, not from a split, so that each is a prunable group.
    """

    def __init__(self, c_in: int, c_out: int, depth: int) -> None:
        super().__init__()
        half = c_out // 2
        self.skip = ConvNorm(c_in, half, 1)
        self.enter = ConvNorm(c_in, half, 1)
        self.residuals = nn.Sequential(*(Residual(half, half) for _ in range(depth)))
        self.merge = ConvNorm(2 * half, c_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.merge(torch.cat((self.residuals(self.enter(x)), self.skip(x)), 1))


class RepConv(nn.Module):
    """3x3 and 1x1 convolution side by side in training, one 3x3 once fused (arXiv 2101.03697).

    `models.fuse.fuse` replaces it by the one convolution that computes the same.
    """

    def __init__(self, channels: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.wide = ConvNorm(channels, channels, 3, act=None)
        self.point = ConvNorm(channels, channels, 1, act=None)
        self.act = act(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.wide(x) + self.point(x))


class PyramidPooling(nn.Module):
    """Three chained 5x5 max-pools see 5, 9 and 13 pixels wide (the fast form of SPP)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.enter = ConvNorm(c_in, c_in // 2, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.merge = ConvNorm(c_in // 2 * 4, c_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = [self.enter(x)]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        return self.merge(torch.cat(pooled, 1))

"""A small network of three tasks whose channels can be switched off by hand, and its groups.

Everything that couples channels is in it: a skip, a depthwise convolution between two norms, a
tensor concatenated twice, a product, a transposed convolution that is applied twice, SiLU, ReLU.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from offline_compress.channels.groups import ChannelGroup, Side, Slice
from support.random_norms import randomise_norms

Gates = Mapping[str, torch.Tensor]
SIZES = {"skip": 4, "deep": 5, "product": 3, "twice": 3, "own": 4}
MAKERS = {
    "skip": (("enter", 0), ("inner", 0)),
    "deep": (("widen", 0), ("depthwise", 0)),
    "product": (("value", 0), ("factor", 0)),
    "twice": (("narrow", 0), ("upsample", 1)),
    "own": (("lane_conv", 0),),
}
"""Group -> layers whose filters make it, and the axis of the weight that is the output."""


class GatedNet(nn.Module):
    """[N, 3, H, W] -> detection [N, 2, H, W], drivable [N, 1, 4 H, 4 W], lane [N, 1, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.enter_norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(4)
        self.widen = nn.Conv2d(4, 5, 1, bias=False)
        self.widen_norm = nn.BatchNorm2d(5)
        self.depthwise = nn.Conv2d(5, 5, 3, padding=1, groups=5, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(5)
        self.value = nn.Conv2d(10, 3, 1)
        self.factor = nn.Conv2d(4, 3, 1)
        self.blend = nn.Parameter(torch.randn(1, 3, 1, 1))
        self.detect = nn.Conv2d(3, 2, 1)
        self.narrow = nn.Conv2d(4, 3, 1)
        self.upsample = nn.ConvTranspose2d(3, 3, 4, 2, 1)
        self.drive = nn.Conv2d(3, 1, 1)
        self.lane_conv = nn.Conv2d(9, 4, 3, padding=1)
        self.lane = nn.Conv2d(4, 1, 1)

    def forward(self, image: torch.Tensor, gates: Gates | None = None) -> Sequence[torch.Tensor]:
        """`gates`: group -> [C] factors on all that the readers of the group's channels read."""

        def read(x: torch.Tensor, group: str) -> torch.Tensor:
            return x if not gates or group not in gates else x * gates[group][:, None, None]

        a = torch.relu(self.enter_norm(self.enter(image)))
        a = torch.relu(a + self.inner_norm(self.inner(read(a, "skip"))))
        skip = read(a, "skip")
        b = nn.functional.silu(self.widen_norm(self.widen(skip)))
        deep = read(nn.functional.silu(self.depthwise_norm(self.depthwise(b))), "deep")
        value = self.value(torch.cat((deep, nn.functional.max_pool2d(deep, 3, 1, 1)), 1))
        product = read(self.blend * value * self.factor(skip).sigmoid(), "product")
        x = self.narrow(skip)
        for _ in range(2):
            x = self.upsample(read(x, "twice"))
        own = read(torch.relu(self.lane_conv(torch.cat((skip, deep), 1))), "own")
        return self.detect(product), self.drive(read(x, "twice")), self.lane(own)


def gated_net() -> GatedNet:
    """In float64 and eval mode, with norms that are no identity."""
    torch.manual_seed(0)
    net = GatedNet().double().eval()
    randomise_norms(net)
    return net


def losses(net: GatedNet, image: torch.Tensor, gates: Gates | None = None) -> list[torch.Tensor]:
    """A smooth loss per task."""
    return [
        scale * (torch.nn.functional.softplus(out) - 0.3 * out).mean()
        for scale, out in zip((100.0, 300.0, 50.0), net(image, gates), strict=True)
    ]


def images(seed: int, count: int = 2) -> torch.Tensor:
    """[count, 3, 6, 7]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 6, 7, generator=generator, dtype=torch.float64)


def groups() -> list[ChannelGroup]:
    """Written down by hand; `head` is protected."""
    twice = np.stack((np.arange(5), np.arange(5) + 5), 1)
    return [
        _group(
            "skip",
            ("enter", "out"),
            ("enter_norm", "out"),
            ("inner", "in"),
            ("inner", "out"),
            ("inner_norm", "out"),
            ("widen", "in"),
            ("factor", "in"),
            ("narrow", "in"),
            ("lane_conv", "in"),
        ),
        _group(
            "deep",
            ("widen", "out"),
            ("widen_norm", "out"),
            ("depthwise", "out"),
            ("depthwise_norm", "out"),
            ("value", "in", twice),
            ("lane_conv", "in", _column(5) + 4),
        ),
        _group("product", ("value", "out"), ("factor", "out"), ("blend", "out"), ("detect", "in")),
        _group(
            "twice", ("narrow", "out"), ("upsample", "in"), ("upsample", "out"), ("drive", "in")
        ),
        _group("own", ("lane_conv", "out"), ("lane", "in")),
        ChannelGroup("head", 2, (Slice("detect", "out", np.arange(2)[:, None]),), {}, "a head"),
    ]


def _group(name: str, *slices: tuple[str, Side] | tuple[str, Side, np.ndarray]) -> ChannelGroup:
    size = SIZES[name]
    parts = [Slice(*part) if len(part) == 3 else Slice(*part, _column(size)) for part in slices]
    return ChannelGroup(name, size, tuple(parts), {}, "")


def _column(size: int) -> np.ndarray:
    return np.arange(size)[:, None]

"""Blocks of the layers that networks of the field are made of, each [N, C, H, W] -> the same."""

import torch
import torch.nn.functional as F
from torch import nn


class ConvAct(nn.Sequential):
    """The most usual one."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.SiLU(inplace=True)
        )


class Separable(nn.Sequential):
    """Depthwise and pointwise, with a slope for each channel; whole channels drop out."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Dropout2d(0.1),
            nn.Conv2d(width, width, 1),
        )


class Grouped(nn.Sequential):
    """Blocks of channels that are convolved, and normalised, apart."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(width, 2 * width, 1),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=4),
            nn.GroupNorm(2, 2 * width),
            nn.Hardswish(),
            nn.Conv2d(2 * width, width, 1),
        )


class Inverted(nn.Module):
    """MBConv: widened, depthwise, squeezed and excited, and added to what came."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen, self.norm = nn.Conv2d(width, 3 * width, 1), nn.BatchNorm2d(3 * width)
        self.depthwise = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width)
        self.squeeze, self.excite = nn.Conv2d(3 * width, 4, 1), nn.Conv2d(4, 3 * width, 1)
        self.project = nn.Conv2d(3 * width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.silu(self.depthwise(F.relu6(self.norm(self.widen(x)))))
        gate = self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))).sigmoid()
        return x + self.project(gate * y)


class Split(nn.Module):
    """Two halves, one of which is convolved; and both behind each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.inner = (
            nn.Conv2d(width, width, 1),
            nn.Conv2d(width // 2, width // 2, 3, 1, 1),
        )
        self.leave = nn.Conv2d(width // 2 * 3, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.enter(x).relu().chunk(2, 1)
        return self.leave(torch.cat((first, second, self.inner(second)), 1))


class Shuffled(nn.Module):
    """Finer by pixels from channels, and coarser again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen, self.down = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(width, width, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.leaky_relu(F.pixel_shuffle(self.widen(x), 2)))


class Transposed(nn.Module):
    """Finer by transposed convolutions, a full and a depthwise one, and coarser by pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width, 4, 2, 1)
        self.smooth = nn.ConvTranspose2d(width, width, 3, 1, 1, groups=width)
        self.leave = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(F.max_pool2d(self.smooth(self.up(x)), 2))


class Reparameterised(nn.Module):
    """Branches side by side, an identity among them, as RepVGG trains them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width, width, 1)
        self.wide, self.point = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        branches = (self.wide(x), self.point(x), x)
        return sum(n(b) for n, b in zip(self.norms, branches, strict=True)).relu()  # type: ignore[union-attr]


class Fused(nn.Module):
    """Two levels added with learned weights, as in BiFPN, and one scaled by channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(width))
        self.fine, self.coarse = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.relu()
        weight = weight / (weight.sum() + 1e-4)
        coarse = F.interpolate(self.coarse(x), x.shape[-2:], mode="bilinear")
        return F.silu(weight[0] * self.fine(x) + weight[1] * coarse * self.scale[:, None, None])


class Attended(nn.Module):
    """A transformer layer over all pixels: what it reads cannot lose channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.norm = nn.Conv2d(width, width, 1), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.ffn = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cells = self.norm(self.enter(x).flatten(2).transpose(1, 2))
        cells = cells + self.attention(cells, cells, cells, need_weights=False)[0]
        return (cells + self.ffn(cells)).transpose(1, 2).unflatten(2, x.shape[-2:])


class Looked(nn.Module):
    """Attention of a map, as in CBAM: what is best of all channels is fixed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.look = nn.Conv2d(width, width, 1), nn.Conv2d(2, 1, 3, 1, 1)
        self.leave = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        seen = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return self.leave(x * self.look(seen).sigmoid())


class Interleaved(nn.Module):
    """The channels of two halves in turn, as ShuffleNet mixes groups; windows rolled along rows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.depthwise = nn.Conv2d(width, width, 3, 1, 1, groups=width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.leave(self.depthwise(x).roll(1, 2).flip(3))


BLOCKS = (
    ConvAct,
    Separable,
    Grouped,
    Inverted,
    Split,
    Shuffled,
    Transposed,
    Reparameterised,
    Fused,
    Attended,
    Looked,
    Interleaved,
)


class AnyNetwork(nn.Module):
    """A stem, any blocks one after the other or added to what came, and two heads."""

    def __init__(self, blocks: list[type[nn.Module]], added: list[bool], width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(block(width) for block in blocks)
        self.added = added
        self.mask = nn.Conv2d(width, 2, 1)
        self.classify = nn.Sequential(
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * width, 10),
            nn.ReLU(),
            nn.Linear(10, 3),
        )

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """[N, 3, H, W] with even H and W -> mask [N, 2, H, W], class [N, 3]."""
        x = self.stem(image)
        for block, added in zip(self.blocks, self.added, strict=True):
            x = x + block(x) if added else block(x)
        return {"mask": self.mask(x), "class": self.classify(x)}

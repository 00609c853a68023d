"""Small networks of our own with the structure of public ones: what has to be followed in them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# Like TwinLiteNet (arXiv 2307.10705): ESP blocks, dual attention, transposed convolutions.


class EfficientPyramid(nn.Module):
    """Dilated convolutions of what was reduced, added one after the other and put side by side."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        each, first = c_out // 5, c_out - 4 * (c_out // 5)
        self.added = stride == 1 and c_in == c_out
        self.reduce = nn.Conv2d(c_in, each, 3, stride, 1, bias=False)
        widths = (first, each, each, each, each)
        self.dilated = nn.ModuleList(
            nn.Conv2d(each, width, 3, padding=2**n, dilation=2**n, bias=False)
            for n, width in enumerate(widths)
        )
        self.norm, self.act = nn.BatchNorm2d(c_out, eps=1e-3), nn.PReLU(c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        reduced = self.reduce(x)
        first, second, *others = (conv(reduced) for conv in self.dilated)
        sums = [second]
        for other in others:
            sums.append(sums[-1] + other)
        found = torch.cat([first, *sums], 1)
        return self.act(self.norm(x + found if self.added else found))


class DualAttention(nn.Module):
    """Attention of places and of channels, added to what came."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width, width // 4, 1)
        self.value, self.gamma = nn.Conv2d(width, width, 1), nn.Parameter(torch.full((1,), 0.5))
        self.leave = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        energy = torch.bmm(self.query(x).flatten(2).transpose(1, 2), self.key(x).flatten(2))
        places = torch.bmm(self.value(x).flatten(2), energy.softmax(-1).transpose(1, 2))
        rows = x.view(n, c, -1)
        channels = torch.bmm(torch.bmm(rows, rows.transpose(1, 2)).softmax(-1), rows)
        both = self.gamma * places.view(n, c, h, w) + channels.view(n, c, h, w) + x
        return self.leave(both)


class UpSampler(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(c_in, c_out, 2, 2, bias=False)
        self.norm, self.act = nn.BatchNorm2d(c_out), nn.PReLU(c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.up(x)))


class TwinLike(nn.Module):
    """[N, 3, H, W] -> logits of two masks, each [N, 2, H, W]; H and W multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.level1 = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.PReLU(16)
        )
        self.sample = nn.AvgPool2d(3, 2, 1)
        self.level2 = EfficientPyramid(19, 40, 2)
        self.level3 = EfficientPyramid(40, 48, 2)
        self.residual = nn.Sequential(*(EfficientPyramid(48, 48) for _ in range(2)))
        self.mix, self.attention = nn.Conv2d(96, 32, 1), DualAttention(32)
        self.heads = nn.ModuleList(
            nn.Sequential(
                UpSampler(32, 16), UpSampler(16, 8), nn.ConvTranspose2d(8, 2, 2, 2, bias=False)
            )
            for _ in "ab"
        )

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first = torch.cat((self.level1(image), self.sample(image)), 1)
        third = self.level3(self.level2(first))
        mixed = self.attention(self.mix(torch.cat((third, self.residual(third)), 1)))
        return tuple(head(mixed) for head in self.heads)


# Like YOLOP (arXiv 2108.11250): focus, cross stages, spatial pyramid pooling, anchors.


class Conv(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.bn, self.act = nn.BatchNorm2d(c_out), nn.Hardswish()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class Focus(nn.Module):
    def __init__(self, c_out: int) -> None:
        super().__init__()
        self.conv = Conv(12, c_out, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
        return self.conv(torch.cat(parts, 1))


class CrossStage(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.cv1, self.cv2 = Conv(width, half), nn.Conv2d(width, half, 1, bias=False)
        self.inner, self.cv3 = Conv(half, half, 3), nn.Conv2d(half, half, 1, bias=False)
        self.bn, self.act, self.cv4 = (
            nn.BatchNorm2d(2 * half),
            nn.LeakyReLU(0.1),
            Conv(width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv1(x)
        y = self.cv3(y + self.inner(y))
        return self.cv4(self.act(self.bn(torch.cat((y, self.cv2(x)), 1))))


class Pooled(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(width, width // 2), Conv(width // 2 * 4, width)
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x] + [pool(x) for pool in self.pools], 1))


class Anchored(nn.Module):
    """Raw predictions in training, decoded ones in use: three anchors of six numbers."""

    anchors: torch.Tensor

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.rand(len(widths), 3, 2))
        self.predict = nn.ModuleList(nn.Conv2d(width, 18, 1) for width in widths)

    def forward(self, levels: list[torch.Tensor]) -> object:
        raw, decoded = [], []
        for number, (level, predict) in enumerate(zip(levels, self.predict, strict=True)):
            x = predict(level)
            n, _, h, w = x.shape
            x = x.view(n, 3, 6, h, w).permute(0, 1, 3, 4, 2).contiguous()
            raw.append(x)
            y = x.sigmoid()
            ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            y[..., 0:2] = y[..., 0:2] * 2 - 0.5 + torch.stack((xs, ys), 2)
            y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * self.anchors[number].view(1, 3, 1, 1, 2)
            decoded.append(y.view(n, -1, 6))
        return raw if self.training else (torch.cat(decoded, 1), raw)


class YoloLike(nn.Module):
    """[N, 3, H, W] -> [detections, mask, mask]; H and W multiples of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down1, self.stage1 = Focus(16), Conv(16, 32, 3, 2), CrossStage(32)
        self.down2, self.stage2, self.spp = Conv(32, 48, 3, 2), CrossStage(48), Pooled(48)
        self.lateral, self.fuse = Conv(48, 32), CrossStage(64)
        self.detect = Anchored((64, 48))
        self.masks = nn.ModuleList(
            nn.Sequential(
                Conv(64, 16, 3), nn.Upsample(scale_factor=4), Conv(16, 8, 3), Conv(8, 2, 3)
            )
            for _ in "ab"
        )

    def forward(self, image: torch.Tensor) -> list[object]:
        first = self.stage1(self.down1(self.stem(image)))
        second = self.spp(self.stage2(self.down2(first)))
        up = F.interpolate(self.lateral(second), scale_factor=2.0, mode="nearest")
        fused = self.fuse(torch.cat((up, first), 1))
        return [self.detect([fused, second]), *(mask(fused).sigmoid() for mask in self.masks)]


# Like HybridNets (arXiv 2203.09035): MBConv with squeeze and excitation, BiFPN, shared heads.


class _Swish(torch.autograd.Function):
    """Computes itself again in the backward pass."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        gate = x.sigmoid()
        return grad * gate * (1 + x * (1 - gate))


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Swish.apply(x)


class SamePadConv(nn.Conv2d):
    """Pads itself as TensorFlow does, by a part of its own."""

    def __init__(self, *sizes: int, **settings: Any) -> None:
        super().__init__(*sizes, **settings)
        self.padded = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = []
        for size, kernel, stride in zip(
            x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            whole = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [whole // 2, whole - whole // 2]
        x = self.padded(F.pad(x, pads))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class MobileBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        wide = 4 * c_in
        self.expand, self.bn0 = SamePadConv(c_in, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.depthwise = SamePadConv(wide, wide, 3, stride, groups=wide, bias=False)
        self.bn1, self.swish = nn.BatchNorm2d(wide), Swish()
        self.squeeze, self.excite = nn.Conv2d(wide, 4, 1), nn.Conv2d(4, wide, 1)
        self.project, self.bn2 = SamePadConv(wide, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
        self.added = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.swish(self.bn0(self.expand(x)))
        y = self.swish(self.bn1(self.depthwise(y)))
        gate = self.excite(self.swish(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        y = self.bn2(self.project(gate.sigmoid() * y))
        if not self.added:
            return y
        if self.training:  # a path that is dropped at times
            y = y / 0.9 * torch.floor(0.9 + torch.rand([x.shape[0], 1, 1, 1], dtype=x.dtype))
        return x + y


class Separable(nn.Module):
    def __init__(self, width: int, c_out: int | None = None) -> None:
        super().__init__()
        self.depthwise = SamePadConv(width, width, 3, groups=width, bias=False)
        self.pointwise = SamePadConv(width, c_out or width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


class WeightedPyramid(nn.Module):
    """Two levels, each the sum of both with weights that are learnt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
        self.fine, self.coarse = Separable(width), Separable(width)
        self.bns, self.swish = nn.ModuleList(nn.BatchNorm2d(width) for _ in "ab"), Swish()

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> tuple[torch.Tensor, ...]:
        w1, w2 = F.relu(self.w1), F.relu(self.w2)
        w1, w2 = w1 / (w1.sum(0) + 1e-4), w2 / (w2.sum(0) + 1e-4)
        up = F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        new = self.bns[0](self.fine(self.swish(w1[0] * fine + w1[1] * up)))
        down = F.max_pool2d(F.pad(new, (0, 1, 0, 1)), 3, 2)
        mixed = w2[0] * coarse + w2[1] * down + w2[2] * down
        return new, self.bns[1](self.coarse(self.swish(mixed)))


class HybridLike(nn.Module):
    """[N, 3, H, W] -> (features, boxes, classes, anchors, mask); H and W multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = SamePadConv(3, 16, 3, 2, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.ModuleList(
            (
                MobileBlock(16, 16),
                MobileBlock(16, 24, 2),
                MobileBlock(24, 24),
                MobileBlock(24, 40, 2),
            )
        )
        self.lateral = nn.ModuleList((SamePadConv(24, 32, 1), SamePadConv(40, 32, 1)))
        self.pyramid = nn.Sequential(WeightedPyramid(32))
        self.tower, self.swish = Separable(32), Swish()
        self.bns = nn.ModuleList(nn.BatchNorm2d(32) for _ in "ab")
        self.boxes, self.classes = Separable(32, 12), Separable(32, 3)
        self.mask = nn.Conv2d(32, 3, 1)

    def forward(self, image: torch.Tensor) -> tuple[object, ...]:
        x = self.swish(self.bn(self.stem(image)))
        levels = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in (2, 3):
                levels.append(x)
        levels = [lateral(x) for lateral, x in zip(self.lateral, levels, strict=True)]
        levels = list(self.pyramid[0](*levels))
        boxes, classes = [], []
        for level, bn in zip(levels, self.bns, strict=True):
            y = self.swish(bn(self.tower(level)))
            n = len(y)
            boxes.append(self.boxes(y).permute(0, 2, 3, 1).contiguous().view(n, -1, 4))
            classes.append(
                self.classes(y).permute(0, 2, 3, 1).contiguous().view(n, -1, 1).sigmoid()
            )
        fine, coarse = levels
        joined = fine + F.interpolate(coarse, scale_factor=2.0, mode="bilinear")
        mask = F.interpolate(self.mask(joined), scale_factor=4.0, mode="bilinear")
        anchors = torch.from_numpy(np.zeros((1, 8, 4), np.float32))
        return levels, torch.cat(boxes, 1), torch.cat(classes, 1), anchors, mask

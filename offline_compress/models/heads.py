"""Task heads on the pyramid: dense anchor-free detection, and masks decoded at stride 4."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from offline_compress.models.blocks import ConvNorm

STRIDES = (8, 16, 32)
PRIOR = 0.01
"""Initial foreground probability of every cell (focal-loss initialisation, arXiv 1708.02002)."""


@dataclass(frozen=True, slots=True)
class DenseDetections:
    """Predictions of all A cells of all levels, finest level first, row-major inside a level."""

    logits: torch.Tensor
    """[N, A, classes]"""
    boxes: torch.Tensor
    """[N, A, 4] x1, y1, x2, y2 in input pixels."""
    centers: torch.Tensor
    """[A, 2] x, y of each cell's centre in input pixels."""
    strides: torch.Tensor
    """[A] pixels per cell."""


class DenseDetectionHead(nn.Module):
    """One box per cell as distances from the cell's centre (FCOS, arXiv 1904.01355)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.tower = nn.ModuleList(ConvNorm(width, width) for _ in STRIDES)
        self.classify = nn.ModuleList(nn.Conv2d(width, classes, 1) for _ in STRIDES)
        self.regress = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in STRIDES)
        for classify, regress in zip(self.classify, self.regress, strict=True):
            assert isinstance(classify, nn.Conv2d)
            assert isinstance(regress, nn.Conv2d)
            nn.init.constant_(classify.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
            nn.init.constant_(regress.bias, 2.0)  # type: ignore[arg-type]

    def forward(self, pyramid: list[torch.Tensor]) -> DenseDetections:
        """P3..P5 -> predictions of every cell."""
        logits, boxes, centers, strides = [], [], [], []
        for level, stride in enumerate(STRIDES):
            x = self.tower[level](pyramid[level])
            height, width = x.shape[-2:]
            ys = (torch.arange(height, device=x.device, dtype=torch.float32) + 0.5) * stride
            xs = (torch.arange(width, device=x.device, dtype=torch.float32) + 0.5) * stride
            center = torch.stack(
                (xs.expand(height, width), ys[:, None].expand(height, width)), -1
            ).reshape(-1, 2)
            logits.append(self.classify[level](x).flatten(2).transpose(1, 2).float())
            # Softplus keeps distances positive and, unlike exp, its gradient bounded.
            distance = self.regress[level](x).flatten(2).transpose(1, 2).float()
            distance = F.softplus(distance) * stride
            boxes.append(torch.cat((center - distance[..., :2], center + distance[..., 2:]), -1))
            centers.append(center)
            strides.append(torch.full((height * width,), float(stride), device=x.device))
        return DenseDetections(
            torch.cat(logits, 1), torch.cat(boxes, 1), torch.cat(centers), torch.cat(strides)
        )


class MaskStem(nn.Module):
    """Features for the mask heads at stride 4: P3 brought up and joined with C2's detail."""

    def __init__(self, pyramid_width: int, detail_width: int, width: int) -> None:
        super().__init__()
        self.semantic = ConvNorm(pyramid_width, width, 1)
        self.detail = ConvNorm(detail_width, width, 1)
        self.fuse = ConvNorm(width, width)

    def forward(self, p3: torch.Tensor, c2: torch.Tensor) -> torch.Tensor:
        """P3 [N, C, H/8, W/8] and C2 [N, C', H/4, W/4] -> [N, width, H/4, W/4]."""
        semantic = F.interpolate(self.semantic(p3), scale_factor=2.0, mode="nearest")
        return self.fuse(semantic + self.detail(c2))


class MaskHead(nn.Module):
    """One binary mask: convolution at stride 4, then each cell predicts its 2x2 sub-cells.

    The prediction costs a 1x1 convolution and keeps thin lane paint that a bilinear step from
    stride 4 would blur; full size is a bilinear step from the sub-cells. Both steps together are
    one fixed sub-pixel convolution (arXiv 1609.05158): an engine's own bilinear resize of the two
    masks takes as long as half of the network's convolutions.
    """

    enlarge: torch.Tensor

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.tower = ConvNorm(c_in, width)
        self.predict = nn.Conv2d(width, 4, 1)
        self.register_buffer("enlarge", enlarging_kernel(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H/4, W/4] -> logits [N, H, W]."""
        cells = F.pad(self.predict(self.tower(x)), (1, 1, 1, 1), mode="replicate")
        return F.pixel_shuffle(F.conv2d(cells, self.enlarge), 4)[:, 0]


def enlarging_kernel() -> torch.Tensor:
    """float32 [16, 4, 3, 3]: from cells of 2x2 sub-cells to 4x4 pixels each, both row-major.

    Applied to cells [N, 4, h + 2, w + 2] and shuffled by 4, it gives what `F.pixel_shuffle` by 2
    and bilinear `F.interpolate` by 2 (half-pixel centres) give; but in the outermost pixels, where
    the added cell stands for its neighbour as a whole and not for the sub-cell beside it.
    """
    # Along one axis a pixel lies a quarter of a sub-cell from the centre of its own.
    axis = torch.zeros(4, 6)  # pixel, sub-cell of the cell before, of its own, of the one after
    for pixel in range(4):
        own = 2 + pixel // 2
        axis[pixel, own] = 0.75
        axis[pixel, own - 1 if pixel % 2 == 0 else own + 1] = 0.25
    taps = axis.reshape(4, 3, 2)
    return torch.einsum("pcs,qdt->pqstcd", taps, taps).reshape(16, 4, 3, 3)

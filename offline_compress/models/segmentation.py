"""Mask decoders on a gated pyramid: the two tasks weigh the levels differently."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from offline_compress.models.blocks import ConvNorm
from offline_compress.models.heads import MaskHead

MASK_TASKS = 2
"""Drivable area and lanes, in this order."""
LEVELS = 3


class LevelWeights(nn.Module):
    """Per task a learnt convex combination of P3..P5 at stride 8 (arXiv 2508.06529)."""

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(c_in, width, 1) for _ in range(LEVELS))
        self.weight = nn.Parameter(torch.zeros(MASK_TASKS, LEVELS))

    def forward(self, pyramid: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """P3..P5 -> one [N, width, H/8, W/8] per task."""
        levels = []
        for level, (project, x) in enumerate(zip(self.project, pyramid, strict=True)):
            x = project(x)
            if level:
                x = F.interpolate(x, scale_factor=2.0**level, mode="bilinear", align_corners=False)
            levels.append(x)
        share = self.weight.softmax(1)
        return [
            share[task, 0] * levels[0] + share[task, 1] * levels[1] + share[task, 2] * levels[2]
            for task in range(MASK_TASKS)
        ]


class FullMaskDecoder(nn.Module):
    """The decoder of arXiv 2508.06529 at full resolution.

    One transposed convolution doubles the resolution three times, and both tasks share everything
    behind their level weights: few parameters, but nearly half of the network's multiplications.
    """

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.weights = LevelWeights(c_in, width)
        self.upsample = nn.ConvTranspose2d(width, width, 4, 2, 1)
        self.refine = ConvNorm(width, width, 3)
        self.predict = nn.Conv2d(width, 1, 1)

    def forward(
        self, pyramid: Sequence[torch.Tensor], _c2: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """P3..P5 -> logits of drivable area and lanes, each [N, H, W]."""
        x = torch.cat(self.weights(pyramid))
        for _ in range(3):
            x = self.upsample(x)
        logits = self.predict(self.refine(x))[:, 0]
        count = pyramid[0].shape[0]
        return logits[:count], logits[count:]


class Stride4MaskDecoder(nn.Module):
    """Ours: the same level weights, decoded at stride 4 with C2's detail, a head per task."""

    def __init__(self, c_in: int, width: int, detail_width: int) -> None:
        super().__init__()
        self.weights = LevelWeights(c_in, width)
        self.detail = ConvNorm(detail_width, width, 1)
        self.semantic = nn.ModuleList(ConvNorm(width, width) for _ in range(MASK_TASKS))
        self.heads = nn.ModuleList(MaskHead(width, width) for _ in range(MASK_TASKS))

    def forward(
        self, pyramid: Sequence[torch.Tensor], c2: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """P3..P5 and C2 -> logits of drivable area and lanes, each [N, H, W]."""
        detail = self.detail(c2)
        drivable, lane = (
            head(F.interpolate(semantic(x), scale_factor=2.0, mode="nearest") + detail)
            for head, semantic, x in zip(
                self.heads, self.semantic, self.weights(pyramid), strict=True
            )
        )
        return drivable, lane

"""The multi-task network: a trunk (backbone and encoder) and three heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from offline_compress.losses.targets import Targets
from offline_compress.models.backbone import PlainBackbone
from offline_compress.models.encoder import PathAggregation
from offline_compress.models.heads import (
    DenseDetectionHead,
    DenseDetections,
    MaskHead,
    MaskStem,
)

if TYPE_CHECKING:
    from offline_compress.models.decoder import QueryDetections


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """What the network predicts for N images of H x W."""

    detections: "DenseDetections | QueryDetections"
    drivable: torch.Tensor
    """[N, H, W] logits."""
    lane: torch.Tensor
    """[N, H, W] logits."""
    features: dict[str, torch.Tensor]
    """Taps for distillation: backbone `c3 c4 c5` and encoder `p3 p4 p5`."""


class ConvMultiTask(nn.Module):
    """Convolutional multi-task network; every tensor's shape follows from the arguments.

    Args:
        stem: channels at stride 2.
        widths: backbone channels at strides 4, 8, 16, 32.
        depths: residual blocks per backbone stage.
        pyramid: channels of P3..P5.
        pyramid_depth: residual blocks per encoder fusion.
        mask: channels of the stride-4 mask features.
        drivable, lane: channels of the two mask heads.
        classes: number of detection classes.
    """

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        depths: Sequence[int],
        pyramid: int,
        pyramid_depth: int,
        mask: int,
        drivable: int,
        lane: int,
        classes: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = PlainBackbone(stem, widths, depths)
        self.encoder = PathAggregation(widths[1:], pyramid, pyramid_depth)
        self.detection_head = DenseDetectionHead(pyramid, classes)
        self.mask_stem = MaskStem(pyramid, widths[0], mask)
        self.drivable_head = MaskHead(mask, drivable)
        self.lane_head = MaskHead(mask, lane)

    def forward(self, image: torch.Tensor, targets: Targets | None = None) -> NetworkOutput:
        """[N, 3, H, W] normalised RGB, H and W multiples of 32; `targets` are not needed."""
        c2, c3, c4, c5 = self.backbone(image)
        p3, p4, p5 = self.encoder([c3, c4, c5])
        stem = self.mask_stem(p3, c2)
        return NetworkOutput(
            self.detection_head([p3, p4, p5]),
            self.drivable_head(stem).float(),
            self.lane_head(stem).float(),
            {"c3": c3, "c4": c4, "c5": c5, "p3": p3, "p4": p4, "p5": p5},
        )

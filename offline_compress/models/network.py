"""The multi-task network: a trunk (backbone and encoder) and three heads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from offline_compress.data.targets import Targets
from offline_compress.models.backbone import PlainBackbone
from offline_compress.models.decoder import QueryDetections
from offline_compress.models.efficientnet import WIDTHS, EfficientNetLite0
from offline_compress.models.encoder import PathAggregation
from offline_compress.models.heads import (
    DenseDetectionHead,
    DenseDetections,
    MaskHead,
    MaskStem,
)

TAPS = ("c3", "c4", "c5", "p3", "p4", "p5")
"""Features of every network: levels of the backbone and of the encoder."""


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """What the network predicts for N images of H x W."""

    detections: DenseDetections | QueryDetections
    drivable: torch.Tensor
    """[N, H, W] logits."""
    lane: torch.Tensor
    """[N, H, W] logits."""
    features: dict[str, torch.Tensor]
    """Taps for distillation: backbone `c3 c4 c5` and encoder `p3 p4 p5`."""


class _Convolutional(nn.Module):
    """A backbone with C2..C5 of `widths` channels, and our encoder and heads on it.

    Args:
        backbone: image to C2..C5.
        widths: channels of C2..C5.
        pyramid: channels of P3..P5.
        pyramid_depth: residual blocks per encoder fusion.
        mask: channels of the stride-4 mask features.
        drivable, lane: channels of the two mask heads.
        classes: number of detection classes.
    """

    def __init__(
        self,
        backbone: nn.Module,
        widths: Sequence[int],
        pyramid: int,
        pyramid_depth: int,
        mask: int,
        drivable: int,
        lane: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
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


class ConvMultiTask(_Convolutional):
    """Convolutional multi-task network; every tensor's shape follows from the arguments.

    Args:
        stem: channels at stride 2.
        widths: backbone channels at strides 4, 8, 16, 32.
        depths: residual blocks per backbone stage.
        classes: number of detection classes.
        encoder_and_heads: `pyramid`, `pyramid_depth`, `mask`, `drivable` and `lane`, as above.
    """

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        depths: Sequence[int],
        classes: int = 1,
        **encoder_and_heads: int,
    ) -> None:
        backbone = PlainBackbone(stem, widths, depths)
        super().__init__(backbone, widths, classes=classes, **encoder_and_heads)


class LiteMultiTask(_Convolutional):
    """The same encoder and heads on EfficientNet-Lite0 features."""

    def __init__(self, classes: int = 1, **encoder_and_heads: int) -> None:
        super().__init__(EfficientNetLite0(), WIDTHS, classes=classes, **encoder_and_heads)

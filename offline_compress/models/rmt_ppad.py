"""A multi-task network of the RMT-PPAD class: RT-DETR with gated adapters and two masks."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import nn

from offline_compress.data.targets import Targets
from offline_compress.models.decoder import QueryDecoder
from offline_compress.models.denoising import DenoisingQueries
from offline_compress.models.gates import GatedAdapter
from offline_compress.models.hgnet import HGNetV2
from offline_compress.models.hybrid_encoder import HybridEncoder
from offline_compress.models.network import NetworkOutput
from offline_compress.models.segmentation import LEVELS, FullMaskDecoder, Stride4MaskDecoder

MaskDecoder = Literal["full", "stride4"]


class RmtPpad(nn.Module):
    """After arXiv 2508.06529, whose structure it follows; the code is our own.

    Args:
        backbone: arguments of `HGNetV2`.
        width: channels of P3..P5.
        fusion, fusion_depth: channels and convolutions of the encoder's fusion blocks.
        ffn: feed-forward channels of the encoder and of the detection decoder.
        layers, queries: of the detection decoder.
        mask: channels of the mask decoder.
        segmentation: `full` decodes masks at full resolution like the original, `stride4` at
            stride 4.
        classes: number of detection classes.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        width: int,
        fusion: int,
        fusion_depth: int,
        ffn: int,
        layers: int,
        queries: int,
        mask: int,
        segmentation: MaskDecoder = "stride4",
        classes: int = 1,
    ) -> None:
        super().__init__()
        if segmentation not in get_args(MaskDecoder):
            known = ", ".join(get_args(MaskDecoder))
            raise ValueError(f"unknown segmentation {segmentation!r}; known: {known}")
        self.backbone = HGNetV2(**backbone)
        c2, *widths = backbone["widths"]
        self.encoder = HybridEncoder(widths, width, fusion, fusion_depth, ffn=ffn)
        self.detection_gates = nn.ModuleList(GatedAdapter(width) for _ in range(LEVELS))
        self.mask_gates = nn.ModuleList(GatedAdapter(width) for _ in range(LEVELS))
        self.detection_head = QueryDecoder(width, classes, layers, queries, ffn=ffn)
        self.mask_decoder: nn.Module = (
            FullMaskDecoder(width, mask)
            if segmentation == "full"
            else Stride4MaskDecoder(width, mask, c2)
        )

    def forward(
        self,
        image: torch.Tensor,
        targets: Targets | None = None,
        noised: DenoisingQueries | None = None,
    ) -> NetworkOutput:
        """[N, 3, H, W] normalised RGB, H and W multiples of 32; `targets` and `noised` as
        `QueryDecoder` has them."""
        c2, c3, c4, c5 = self.backbone(image)
        pyramid = self.encoder([c3, c4, c5])
        p3, p4, p5 = pyramid
        size = (image.shape[-2], image.shape[-1])
        found = self.detection_head(
            [gate(p) for gate, p in zip(self.detection_gates, pyramid, strict=True)],
            size,
            targets,
            noised,
        )
        drivable, lane = self.mask_decoder(
            [gate(p) for gate, p in zip(self.mask_gates, pyramid, strict=True)], c2
        )
        return NetworkOutput(
            found,
            drivable.float(),
            lane.float(),
            {"c3": c3, "c4": c4, "c5": c5, "p3": p3, "p4": p4, "p5": p5},
        )

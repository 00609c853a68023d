"""The RT-DETR decoder (arXiv 2304.08069): a fixed number of queries, each one box at most."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from offline_compress.data.targets import Targets
from offline_compress.models.blocks import ConvNorm
from offline_compress.models.deformable import DeformableAttention
from offline_compress.models.denoising import (
    FRACTION_MARGIN,
    DenoisingQueries,
    denoising_queries,
)
from offline_compress.models.heads import PRIOR

ANCHOR_SIZE = 0.05
"""Side of the finest level's anchors as a fraction of the image; doubles from level to level."""
LOGIT_LIMIT = -math.log(FRACTION_MARGIN)
"""References stay within this, so that a saturated box can come back."""


@dataclass(frozen=True, slots=True)
class LayerDetections:
    """What one layer predicts."""

    logits: torch.Tensor
    """[N, Q, classes] float32"""
    boxes: torch.Tensor
    """[N, Q, 4] float32 x1, y1, x2, y2 in input pixels; may reach over the image's edge."""


@dataclass(frozen=True, slots=True)
class DenoisedDetections:
    """What every layer made of the denoising queries."""

    queries: DenoisingQueries
    layers: list[LayerDetections]
    """[N, D, ...] each, first layer first."""


@dataclass(frozen=True, slots=True)
class QueryDetections:
    """Predictions of Q queries, each of which stands for at most one object."""

    logits: torch.Tensor
    """[N, Q, classes] float32, of the last layer."""
    boxes: torch.Tensor
    """[N, Q, 4] float32 x1, y1, x2, y2 in input pixels, of the last layer; may reach over the
    image's edge."""
    auxiliary: list[LayerDetections]
    """In training, and beside denoising queries: the encoder's proposals, then the layers before
    the last. Else empty."""
    denoising: DenoisedDetections | None
    """In training with targets, and of denoising queries that were given; else None."""


class Perceptron(nn.Sequential):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.Linear(c_in, c_out), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-1])


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the features, feed-forward."""

    def __init__(self, width: int, heads: int, levels: int, points: int, ffn: int) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = DeformableAttention(width, heads, levels, points)
        self.cross_norm = nn.LayerNorm(width)
        self.feed_forward = Perceptron(width, ffn, width)
        self.feed_norm = nn.LayerNorm(width)

    def forward(
        self,
        content: torch.Tensor,
        position: torch.Tensor,
        boxes: torch.Tensor,
        memory: torch.Tensor,
        shapes: Sequence[tuple[int, int]],
        blocked: torch.Tensor | None,
    ) -> torch.Tensor:
        """[N, Q, width] content and position of each query -> new content."""
        query = content + position
        # Asking for the attention weights would keep Q x Q matrices and forbid the fused kernel.
        seen, _ = self.self_attention(query, query, content, attn_mask=blocked, need_weights=False)
        content = self.self_norm(content + seen)
        read = self.cross_attention(content + position, boxes, memory, shapes)
        content = self.cross_norm(content + read)
        return self.feed_norm(content + self.feed_forward(content))


class QueryDecoder(nn.Module):
    """Picks the most promising cells of a pyramid as queries and refines their boxes by layers.

    Args:
        width: channels of the pyramid and of the queries.
        classes: number of detection classes.
        layers: decoder layers. Whole ones can be dropped from `layers`, `score_heads` and
            `box_heads` alike; the last one left answers.
        queries: boxes per image.
        heads: attention heads.
        points: sampling points per head and level.
        levels: levels of the pyramid.
        ffn: hidden channels of the feed-forward blocks.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        layers: int = 6,
        queries: int = 300,
        heads: int = 8,
        points: int = 4,
        levels: int = 3,
        ffn: int = 1024,
    ) -> None:
        super().__init__()
        self.classes, self.queries = classes, queries
        self.project = nn.ModuleList(ConvNorm(width, width, 1, act=None) for _ in range(levels))
        self.propose = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.proposal_score = nn.Linear(width, classes)
        self.proposal_box = Perceptron(width, width, width, 4)
        self.denoising_content = nn.Embedding(classes + 1, width, padding_idx=classes)
        self.position = Perceptron(4, 2 * width, width)
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, levels, points, ffn) for _ in range(layers)
        )
        self.score_heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(layers))
        self.box_heads = nn.ModuleList(Perceptron(width, width, width, 4) for _ in range(layers))
        self._initialise()

    def _initialise(self) -> None:
        for linear in (*self.propose, *self.position):
            if isinstance(linear, nn.Linear):
                nn.init.xavier_uniform_(linear.weight)
        for score in (self.proposal_score, *self.score_heads):
            nn.init.constant_(score.bias, -math.log((1 - PRIOR) / PRIOR))
        # Boxes start as their anchors.
        for head in (self.proposal_box, *self.box_heads):
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)

    def forward(
        self,
        pyramid: Sequence[torch.Tensor],
        image_size: tuple[int, int],
        targets: Targets | None = None,
        noised: DenoisingQueries | None = None,
    ) -> QueryDetections:
        """Detections of the last layer; in training also of all others, and denoising ones.

        Args:
            pyramid: feature levels, finest first, [N, width, H / stride, W / stride] each.
            image_size: H, W in pixels.
            targets: labels to make denoising queries of; read in training only.
            noised: denoising queries to answer instead, as another network answered them, in
                training or not.
        """
        levels = [project(f) for project, f in zip(self.project, pyramid, strict=True)]
        # Plain numbers: what follows from them is a constant of an exported graph.
        shapes = [(int(level.shape[-2]), int(level.shape[-1])) for level in levels]
        memory = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
        content, scores, box_logits = self._select(memory, shapes)
        auxiliary = [self._detections(scores, box_logits, image_size)]

        content, reference = content.detach(), box_logits.detach()
        blocked = None
        if self.training and targets is not None and noised is None:
            noised = denoising_queries(targets, image_size, self.classes)
        if noised is not None:
            noise_content = self.denoising_content(noised.classes).to(content.dtype)
            content = torch.cat((noise_content, content), 1)
            reference = torch.cat((noised.box_logits, reference), 1)
            blocked = noised.blocked(scores.shape[1])

        everything = self.training or noised is not None
        layers: list[LayerDetections] = []
        previous = reference
        for index, layer in enumerate(self.layers):
            boxes = reference.sigmoid()
            position = self.position(boxes.to(content.dtype))
            content = layer(content, position, boxes, memory, shapes, blocked)
            step = self.box_heads[index](content).float()
            if everything or index == len(self.layers) - 1:
                scores = self.score_heads[index](content).float()
                # Each layer's box loss also trains the step of the layer before (DINO's look
                # forward twice); the values are the same.
                layers.append(self._detections(scores, previous + step, image_size))
            previous = (reference + step).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            reference = previous.detach()
        if not everything:
            return QueryDetections(layers[-1].logits, layers[-1].boxes, [], None)
        denoising = None
        if noised is not None:
            count = noised.box.shape[1]
            denoising = DenoisedDetections(
                noised, [LayerDetections(d.logits[:, :count], d.boxes[:, :count]) for d in layers]
            )
            layers = [LayerDetections(d.logits[:, count:], d.boxes[:, count:]) for d in layers]
        return QueryDetections(
            layers[-1].logits, layers[-1].boxes, [*auxiliary, *layers[:-1]], denoising
        )

    def _select(
        self, memory: torch.Tensor, shapes: Sequence[tuple[int, int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The cells with the best scores: content [N, Q, width], logits, box logits [N, Q, 4].

        Only the chosen cells' boxes are worked out. Unlike the original, cells on the image's edge
        may be chosen as well: their anchors are as finite as all others.
        """
        proposals = self.propose(memory)
        scores = self.proposal_score(proposals).float()
        chosen = scores.amax(-1).topk(min(self.queries, scores.shape[1]), 1).indices[..., None]
        content = proposals.gather(1, chosen.expand(-1, -1, proposals.shape[-1]))
        anchors = anchor_logits(shapes, memory.device)[chosen[..., 0]]
        box_logits = anchors + self.proposal_box(content).float()
        return content, scores.gather(1, chosen.expand(-1, -1, self.classes)), box_logits

    @staticmethod
    def _detections(
        logits: torch.Tensor, box_logits: torch.Tensor, image_size: tuple[int, int]
    ) -> LayerDetections:
        height, width = image_size
        size = torch.tensor([width, height], dtype=torch.float32, device=box_logits.device)
        fractions = box_logits.sigmoid()
        centre, extent = fractions[..., :2] * size, fractions[..., 2:] * size
        return LayerDetections(logits, torch.cat((centre - extent / 2, centre + extent / 2), -1))


def anchor_logits(shapes: Sequence[tuple[int, int]], device: torch.device) -> torch.Tensor:
    """[S, 4] float32: centre x, y, width, height of each cell's anchor as logits of fractions."""
    anchors = []
    for level, (height, width) in enumerate(shapes):
        ys = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        xs = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        side = torch.full((height, width), ANCHOR_SIZE * 2.0**level, device=device)
        grid = (xs.expand(height, width), ys[:, None].expand(height, width), side, side)
        anchors.append(torch.stack(grid, -1).reshape(-1, 4))
    return torch.logit(torch.cat(anchors))

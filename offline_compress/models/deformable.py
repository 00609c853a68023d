"""Multi-scale deformable attention (arXiv 2010.04159) on `F.grid_sample`, so that it exports."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class DeformableAttention(nn.Module):
    """Each query reads a few learned points around its box on every level of a feature pyramid.

    Args:
        width: channels of queries and features, a multiple of `heads`.
        heads: attention heads, each with points of its own.
        levels: feature levels.
        points: points per head and level.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        # At first every head looks in a direction of its own, its points one step apart.
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, points + 1)[:, None]
        start = (direction[:, None, None] * steps).expand(heads, levels, points, 2)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(start.flatten())
        for layer in (self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: torch.Tensor,
        boxes: torch.Tensor,
        memory: torch.Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        """Read the features around each query's box.

        Args:
            query: [N, Q, width].
            boxes: [N, Q, 4] float32 centre x, centre y, width, height as fractions of the image.
            memory: [N, S, width] cells of all levels, row-major inside a level.
            shapes: (height, width) of each level, S cells together.

        Returns [N, Q, width]. Locations and sampling stay in the dtype of `boxes`: in bfloat16 or
        float16 a location would be pixels off.
        """
        count, queries, width = query.shape
        value = self.value(memory).to(boxes.dtype)
        value = value.reshape(count, -1, self.heads, width // self.heads)
        maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # [N * heads, width / heads, S]
        weight = self.weights(query).to(boxes.dtype)
        weight = weight.reshape(count, queries, self.heads, -1).softmax(-1)
        offset = self.offsets(query).to(boxes.dtype)
        offset = offset.reshape(count, queries, self.heads, -1, 2)
        # A step of `points` reaches the edge of the box.
        reach = boxes[:, :, None, None, 2:] * (0.5 / self.points)
        grid = 2 * (boxes[:, :, None, None, :2] + offset * reach) - 1
        grid = grid.transpose(1, 2).flatten(0, 1)  # [N * heads, Q, levels * points, 2]
        samples = [
            F.grid_sample(
                level.reshape(-1, width // self.heads, *shape), points, align_corners=False
            )
            for level, shape, points in zip(
                maps.split([h * w for h, w in shapes], -1),
                shapes,
                grid.split(self.points, 2),
                strict=True,
            )
        ]
        weight = weight.transpose(1, 2).flatten(0, 1)[:, None]
        read = (torch.cat(samples, -1) * weight).sum(-1)  # [N * heads, width / heads, Q]
        return self.out(read.reshape(count, width, queries).transpose(1, 2).to(query.dtype))

"""RT-DETR's hybrid encoder (arXiv 2304.08069): attention on the coarsest level, then convolutions
that mix the levels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from offline_compress.models.blocks import ConvNorm, RepConv

TEMPERATURE = 10_000.0


def sine_position(height: int, width: int, channels: int, device: torch.device) -> torch.Tensor:
    """Sine-cosine position embedding of a grid, row-major: [1, height * width, channels] float32.

    A quarter of the channels each: sine and cosine of the row, sine and cosine of the column.
    """
    quarter = channels // 4
    frequency = TEMPERATURE ** -(torch.arange(quarter, device=device) / quarter)
    rows = torch.arange(height, device=device)[:, None, None] * frequency
    columns = torch.arange(width, device=device)[None, :, None] * frequency
    rows, columns = rows.expand(height, width, quarter), columns.expand(height, width, quarter)
    position = torch.cat((rows.sin(), rows.cos(), columns.sin(), columns.cos()), -1)
    return position.reshape(1, height * width, channels)


class GridAttention(nn.Module):
    """One transformer encoder layer over all cells of one level (AIFI), normalised after."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, ffn)
        self.reduce = nn.Linear(ffn, width)
        self.ffn_norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> the same shape."""
        height, width = x.shape[-2:]
        cells = x.flatten(2).transpose(1, 2)
        placed = cells + sine_position(height, width, x.shape[1], x.device).to(x.dtype)
        attended, _ = self.attention(placed, placed, cells, need_weights=False)
        cells = self.attention_norm(cells + attended)
        cells = self.ffn_norm(cells + self.reduce(F.gelu(self.expand(cells))))
        return cells.transpose(1, 2).reshape(x.shape)


class CrossStageRep(nn.Module):
    """Cross-stage-partial block of re-parameterisable convolutions; the two halves are added."""

    def __init__(self, c_in: int, c_out: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.enter = ConvNorm(c_in, hidden, 1, act=nn.SiLU)
        self.skip = ConvNorm(c_in, hidden, 1, act=nn.SiLU)
        self.convs = nn.Sequential(*(RepConv(hidden, nn.SiLU) for _ in range(depth)))
        self.merge = nn.Identity() if hidden == c_out else ConvNorm(hidden, c_out, 1, act=nn.SiLU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.merge(self.convs(self.enter(x)) + self.skip(x))


class HybridEncoder(nn.Module):
    """C3..C5 to P3..P5 of equal width.

    Args:
        widths: channels of C3, C4, C5.
        width: channels of P3..P5; a multiple of 4 and of `heads`.
        hidden: channels inside the fusion blocks.
        depth: re-parameterisable convolutions per fusion block.
        ffn, heads: feed-forward channels and attention heads on the coarsest level.
    """

    def __init__(
        self, widths: Sequence[int], width: int, hidden: int, depth: int, ffn: int, heads: int = 8
    ) -> None:
        super().__init__()
        steps = range(len(widths) - 1)
        self.project = nn.ModuleList(ConvNorm(c, width, 1, act=None) for c in widths)
        self.attend = GridAttention(width, heads, ffn)
        self.lateral = nn.ModuleList(ConvNorm(width, width, 1, act=nn.SiLU) for _ in steps)
        self.top_down = nn.ModuleList(CrossStageRep(2 * width, width, hidden, depth) for _ in steps)
        self.down = nn.ModuleList(ConvNorm(width, width, 3, 2, act=nn.SiLU) for _ in steps)
        self.bottom_up = nn.ModuleList(
            CrossStageRep(2 * width, width, hidden, depth) for _ in steps
        )

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """C3..C5 -> P3..P5, each [N, width, H / stride, W / stride]."""
        levels = [project(f) for project, f in zip(self.project, features, strict=True)]
        levels[-1] = self.attend(levels[-1])
        for level in range(len(levels) - 2, -1, -1):
            levels[level + 1] = self.lateral[level](levels[level + 1])
            upper = F.interpolate(levels[level + 1], scale_factor=2.0, mode="nearest")
            levels[level] = self.top_down[level](torch.cat((upper, levels[level]), 1))
        for level in range(1, len(levels)):
            lower = self.down[level - 1](levels[level - 1])
            levels[level] = self.bottom_up[level - 1](torch.cat((lower, levels[level]), 1))
        return levels

"""Labels of a batch as tensors."""

from dataclasses import dataclass

import torch

IGNORE = 255
"""Mask label of pixels that are unlabelled or lie outside the image."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Labels of N images of H x W; M is the largest number of boxes of one image."""

    boxes: torch.Tensor
    """[N, M, 4] float32 x1, y1, x2, y2 in input pixels; rows past an image's own are zero."""
    kinds: torch.Tensor
    """[N, M] int64: class index, -1 for padding, -2 for an ignore region."""
    has_boxes: torch.Tensor
    """[N] bool: whether vehicles are labelled in the image."""
    drivable: torch.Tensor
    """[N, H, W] uint8: 0, 1 or IGNORE."""
    lane: torch.Tensor
    """[N, H, W] uint8: 0, 1 or IGNORE."""

    @property
    def image_size(self) -> tuple[int, int]:
        """H, W in pixels."""
        return self.drivable.shape[-2], self.drivable.shape[-1]

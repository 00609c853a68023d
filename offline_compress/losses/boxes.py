"""Geometry of boxes."""

import torch


def box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of broadcastable boxes [..., 4] -> [...]."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(
        min=0
    )
    intersection = overlap[..., 0] * overlap[..., 1]
    size_a = (a[..., 2:] - a[..., :2]).clamp(min=0)
    size_b = (b[..., 2:] - b[..., :2]).clamp(min=0)
    union = size_a[..., 0] * size_a[..., 1] + size_b[..., 0] * size_b[..., 1] - intersection
    return intersection / union.clamp(min=1e-6)


def generalised_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """GIoU (arXiv 1902.09630) of paired boxes [..., 4] -> [...] in -1..1."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(
        min=0
    )
    intersection = overlap[..., 0] * overlap[..., 1]
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    union = (area_a + area_b - intersection).clamp(min=1e-6)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    hull_area = (hull[..., 0] * hull[..., 1]).clamp(min=1e-6)
    return intersection / union - (hull_area - union) / hull_area


def fractions(boxes: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """x1, y1, x2, y2 in pixels [..., 4] -> centre x, y, width, height as parts of the image.

    `image_size` is (height, width).
    """
    height, width = image_size
    size = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / (2 * size), (high - low) / size), -1)

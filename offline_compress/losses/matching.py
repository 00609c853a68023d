"""One-to-one matching of queries and labelled boxes (DETR, arXiv 2005.12872)."""

import torch

from offline_compress.data.targets import Targets
from offline_compress.losses.boxes import fractions, generalised_iou

CLASS_COST, L1_COST, GIOU_COST = 2.0, 5.0, 2.0
ALPHA, GAMMA = 0.25, 2.0
"""Of the focal classification cost (Deformable DETR, arXiv 2010.04159)."""
LARGEST_COST = 1e6
"""Stands for a cost that is no number: such a pair is matched last, and nothing crashes."""


@torch.no_grad()
def matching_cost(logits: torch.Tensor, boxes: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Cost of every query for every row of `targets`, padding included, for L layers at once.

    Args:
        logits: [L, N, Q, classes].
        boxes: [L, N, Q, 4] x1, y1, x2, y2 in input pixels.

    Returns [L, N, Q, M] float32.
    """
    probability = logits.float().sigmoid()
    taken = ALPHA * (1 - probability) ** GAMMA * -(probability + 1e-8).log()
    rejected = (1 - ALPHA) * probability**GAMMA * -(1 - probability + 1e-8).log()
    index = targets.kinds.clamp(min=0)[None, :, None].expand(*logits.shape[:3], -1)
    classify = (taken - rejected).gather(3, index)

    size = targets.image_size
    wanted = fractions(targets.boxes, size)[None, :, None]
    distance = (fractions(boxes, size)[..., None, :] - wanted).abs().sum(-1)
    overlap = generalised_iou(boxes[..., None, :], targets.boxes[None, :, None])
    cost = CLASS_COST * classify + L1_COST * distance - GIOU_COST * overlap
    return cost.nan_to_num(LARGEST_COST, LARGEST_COST, LARGEST_COST)


@torch.no_grad()
def match(logits: torch.Tensor, boxes: torch.Tensor, targets: Targets) -> torch.Tensor:
    """The cheapest one-to-one matching of each layer and image, by the Hungarian algorithm.

    Args:
        logits: [L, N, Q, classes].
        boxes: [L, N, Q, 4] x1, y1, x2, y2 in input pixels.

    Returns [L, N, Q] int64: the index of the query's box among its image's, -1 for none. Ignore
    regions and images without labelled boxes match nothing.
    """
    # Slow to import, and no dense network needs it.
    from scipy.optimize import linear_sum_assignment

    cost = matching_cost(logits, boxes, targets).cpu()
    real = ((targets.kinds >= 0) & targets.has_boxes[:, None]).cpu()
    owner = torch.full(cost.shape[:3], -1, dtype=torch.int64)
    for image, rows in enumerate(real):
        columns = rows.nonzero()[:, 0]
        if not len(columns):
            continue
        for layer, pairs in enumerate(cost[:, image, :, columns].numpy()):
            queries, chosen = linear_sum_assignment(pairs)
            owner[layer, image, queries] = columns[chosen]
    return owner.to(logits.device)

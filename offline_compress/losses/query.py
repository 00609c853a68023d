"""Loss of query detections: matching, quality classification, L1 and GIoU in every layer."""

import torch
import torch.nn.functional as F

from offline_compress.data.targets import Targets
from offline_compress.losses.boxes import box_iou, fractions, generalised_iou
from offline_compress.losses.matching import match
from offline_compress.models.decoder import LayerDetections, QueryDetections

CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 1.0, 5.0, 2.0
ALPHA, GAMMA = 0.75, 2.0
"""Of the varifocal weight of negatives."""


def query_loss(detections: QueryDetections, targets: Targets) -> torch.Tensor:
    """RT-DETR's loss (arXiv 2304.08069) per labelled box, summed over all layers.

    The layers are the encoder's proposals and every decoder layer, each matched for itself, and
    every decoder layer's denoising queries, which know their boxes.
    """
    labelled = targets.has_boxes
    count = ((targets.kinds >= 0) & labelled[:, None]).sum().clamp(min=1)

    last = LayerDetections(detections.logits, detections.boxes)
    logits, boxes = _stacked([*detections.auxiliary, last])
    owner = match(logits, boxes, targets)
    loss = set_loss(logits, boxes, owner, labelled[:, None], targets) / count
    if detections.denoising is not None:
        queries = detections.denoising.queries
        logits, boxes = _stacked(detections.denoising.layers)
        owner = queries.box.expand(len(logits), -1, -1)
        noised = set_loss(logits, boxes, owner, queries.used, targets)
        loss = loss + noised / (count * queries.groups)
    return loss


def set_loss(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    owner: torch.Tensor,
    counted: torch.Tensor,
    targets: Targets,
) -> torch.Tensor:
    """Sum of varifocal (arXiv 2008.13367), 5 x L1 and 2 x GIoU losses of L layers; a scalar.

    Args:
        logits: [L, N, Q, classes].
        boxes: [L, N, Q, 4] x1, y1, x2, y2 in input pixels.
        owner: [L, N, Q] index of the box each query answers for, -1: none.
        counted: [N, Q] or [N, 1] bool; queries that are not take no part.
    """
    layer, image, query = ((owner >= 0) & counted).nonzero(as_tuple=True)
    box = owner[layer, image, query]
    found, wanted = boxes[layer, image, query], targets.boxes[image, box]
    kind = targets.kinds[image, box]

    quality = box_iou(found.detach(), wanted)
    target = torch.zeros_like(logits)
    target[layer, image, query, kind] = quality
    weight = ALPHA * logits.detach().sigmoid() ** GAMMA
    weight[layer, image, query, kind] = quality
    weight = weight * (counted & ~_ignored(boxes, owner, targets))[..., None]
    classify = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")

    size = targets.image_size
    distance = (fractions(found, size) - fractions(wanted, size)).abs().sum()
    overlap = (1 - generalised_iou(found, wanted)).sum()
    return CLASS_WEIGHT * classify + L1_WEIGHT * distance + GIOU_WEIGHT * overlap


@torch.no_grad()
def _ignored(boxes: torch.Tensor, owner: torch.Tensor, targets: Targets) -> torch.Tensor:
    """[L, N, Q] bool: unmatched and centred in an ignore region.

    A box of which an ignore region covers more than half is centred in it.
    """
    regions = targets.kinds == -2
    if not regions.any():
        return torch.zeros_like(owner, dtype=torch.bool)
    centre = ((boxes[..., :2] + boxes[..., 2:]) / 2)[..., None, :]
    area = targets.boxes[None, :, None]
    centred = ((centre > area[..., :2]) & (centre < area[..., 2:])).all(-1)
    return (centred & regions[None, :, None]).any(-1) & (owner < 0)


def _stacked(layers: list[LayerDetections]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [L, N, Q, classes] and boxes [L, N, Q, 4]."""
    return torch.stack([d.logits for d in layers]), torch.stack([d.boxes for d in layers])

"""Losses of the three tasks. A task an image has no labels for contributes nothing."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from offline_compress.models.heads import DenseDetections
from offline_compress.models.network import NetworkOutput

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


@dataclass(frozen=True, slots=True)
class TaskLosses:
    """Scalar loss per task."""

    detection: torch.Tensor
    drivable: torch.Tensor
    lane: torch.Tensor

    def total(self) -> torch.Tensor:
        """Plain sum: the terms are scaled so that their gradients on the trunk are comparable."""
        return self.detection + self.drivable + self.lane


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


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which cells answer for which box."""

    positive: torch.Tensor
    """[N, A] bool."""
    box: torch.Tensor
    """[N, A] index into the image's boxes, meaningful where positive."""
    quality: torch.Tensor
    """[N, A] float32 classification target in 0..1, 0 where not positive."""
    ignored: torch.Tensor
    """[N, A] bool: negatives inside an ignore region, left out of the loss."""


@torch.no_grad()
def assign(
    detections: DenseDetections,
    targets: Targets,
    top_k: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
) -> Assignment:
    """Task-aligned assignment (TOOD, arXiv 2108.07755): alignment = score^alpha * IoU^beta.

    Each box takes its `top_k` best aligned cells among those whose centre it holds; a cell wanted
    by several boxes goes to the one it overlaps most. Boxes smaller than a cell are widened for
    the centre test only, so that no vehicle is left without a candidate.
    """
    boxes, kinds = targets.boxes, targets.kinds
    real = kinds >= 0
    cells = detections.centers
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = ((boxes[..., 2:] - boxes[..., :2]) / 2).clamp(min=float(detections.strides.min()))
    offset = (cells[None, None] - middle[:, :, None]).abs()  # [N, M, A, 2]
    inside = (offset < half[:, :, None]).all(-1) & real[..., None]

    scores = detections.logits.sigmoid()  # [N, A, classes]
    of_class = scores.transpose(1, 2).gather(
        1, kinds.clamp(min=0)[..., None].expand(-1, -1, scores.shape[1])
    )
    iou = box_iou(boxes[:, :, None], detections.boxes[:, None]) * inside
    alignment = of_class.pow(alpha) * iou.pow(beta)

    count = min(top_k, alignment.shape[-1])
    best = alignment.topk(count, -1)
    chosen = torch.zeros_like(inside).scatter_(-1, best.indices, True) & inside
    # Untrained predictions may overlap nothing at all; the cell nearest the centre still learns.
    nearest = offset.sum(-1).argmin(-1, keepdim=True)
    hopeless = real & (best.values.amax(-1) <= 1e-9)
    chosen |= torch.zeros_like(chosen).scatter_(-1, nearest, True) & hopeless[..., None]

    owner_iou = torch.where(chosen, iou, torch.full_like(iou, -1.0))
    owner = owner_iou.argmax(1)  # [N, A]
    positive = chosen.any(1)
    owned = chosen & F.one_hot(owner, boxes.shape[1]).transpose(1, 2).bool()

    peak_alignment = (alignment * owned).amax(-1, keepdim=True)
    peak_iou = (iou * owned).amax(-1, keepdim=True)
    normalised = alignment * owned / peak_alignment.clamp(min=1e-9) * peak_iou
    quality = normalised.amax(1)

    held = (offset < ((boxes[..., 2:] - boxes[..., :2]) / 2)[:, :, None]).all(-1)
    ignored = (held & (kinds == -2)[..., None]).any(1) & ~positive
    return Assignment(positive, owner, quality, ignored)


def detection_loss(detections: DenseDetections, targets: Targets) -> torch.Tensor:
    """Quality-weighted binary cross-entropy plus 2 x GIoU loss over the assigned cells."""
    labelled = targets.has_boxes
    if not labelled.any():
        return detections.logits.sum() * 0 + detections.boxes.sum() * 0
    assignment = assign(detections, targets)
    positive = assignment.positive & labelled[:, None]
    quality = assignment.quality * positive
    norm = quality.sum().clamp(min=1.0)

    kind = targets.kinds.clamp(min=0).gather(1, assignment.box)
    target = torch.zeros_like(detections.logits)
    target.scatter_(-1, kind[..., None], quality[..., None])
    weight = (labelled[:, None] & ~assignment.ignored).float()[..., None]
    # Varifocal weighting (arXiv 2008.13367): easy negatives count little, positives fully.
    probability = detections.logits.detach().sigmoid()
    weight = weight * torch.where(target > 0, target.clamp(min=0.1), 0.75 * probability.pow(2))
    classify = F.binary_cross_entropy_with_logits(
        detections.logits, target, weight, reduction="sum"
    )

    wanted = targets.boxes.gather(1, assignment.box[..., None].expand(-1, -1, 4))[positive]
    regress = (1 - generalised_iou(detections.boxes[positive], wanted)) * quality[positive].clamp(
        min=0.1
    )
    return (classify + 2 * regress.sum()) / norm


def mask_loss(logits: torch.Tensor, target: torch.Tensor, positive_weight: float) -> torch.Tensor:
    """Cross-entropy plus soft Dice (arXiv 1606.04797) over the labelled pixels of the batch.

    Args:
        logits: [N, H, W].
        target: [N, H, W] uint8, 0, 1 or IGNORE.
        positive_weight: weight of foreground pixels in the cross-entropy.
    """
    valid = (target != IGNORE).float()
    truth = (target == 1).float()
    count = valid.sum().clamp(min=1.0)
    weight = valid * (1 + (positive_weight - 1) * truth)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, weight, reduction="sum") / count
    probability = logits.sigmoid() * valid
    overlap = (probability * truth).sum()
    dice = 1 - (2 * overlap + 1) / (probability.sum() + truth.sum() + 1)
    return entropy + dice * (valid.sum() > 0)


def task_losses(output: NetworkOutput, targets: Targets) -> TaskLosses:
    """Losses of one batch; paint covers about 2 % of an image, hence its weight."""
    return TaskLosses(
        detection_loss(output.detections, targets),
        2 * mask_loss(output.drivable, targets.drivable, 1.0),
        2 * mask_loss(output.lane, targets.lane, 2.0),
    )

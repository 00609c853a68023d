"""Loss of dense detections: task-aligned assignment, quality classification and GIoU."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from offline_compress.data.targets import Targets
from offline_compress.losses.boxes import box_iou, generalised_iou
from offline_compress.models.heads import DenseDetections


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
    the centre test only, so that no vehicle is left without a candidate; one that gets none of
    them, as another one overlaps more, gets the nearest that the other can spare.
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
    away = offset.sum(-1)  # [N, M, A]
    nearest = away.argmin(-1, keepdim=True)
    hopeless = real & (best.values.amax(-1) <= 1e-9)
    chosen |= torch.zeros_like(chosen).scatter_(-1, nearest, True) & hopeless[..., None]

    owner_iou = torch.where(chosen, iou, torch.full_like(iou, -1.0))
    owner = owner_iou.argmax(1)  # [N, A]
    positive = chosen.any(1)
    _share(owner, positive, away.masked_fill(~inside, torch.inf), real)
    owned = positive[:, None] & F.one_hot(owner, boxes.shape[1]).transpose(1, 2).bool()

    peak_alignment = (alignment * owned).amax(-1, keepdim=True)
    peak_iou = (iou * owned).amax(-1, keepdim=True)
    normalised = alignment * owned / peak_alignment.clamp(min=1e-9) * peak_iou
    quality = normalised.amax(1)

    held = (offset < ((boxes[..., 2:] - boxes[..., :2]) / 2)[:, :, None]).all(-1)
    ignored = (held & (kinds == -2)[..., None]).any(1) & ~positive
    return Assignment(positive, owner, quality, ignored)


def _share(
    owner: torch.Tensor, positive: torch.Tensor, away: torch.Tensor, real: torch.Tensor
) -> None:
    """Give every real box without a cell one that is free, or one of several of another box.

    Two far vehicles side by side want the same few cells. A box all of whose cells are the only
    ones of others remains without.

    Args:
        owner: [N, A] index of a box, changed in place; meaningful where positive.
        positive: [N, A] bool, changed in place.
        away: [N, M, A] distance of cells and boxes; infinite where a box may not have a cell.
        real: [N, M] bool: boxes to have a cell.
    """
    cells = torch.zeros(real.shape, dtype=torch.int64, device=real.device)
    cells.scatter_add_(1, owner, positive.long())
    for image, box in (real & (cells == 0)).nonzero().tolist():
        spare = ~positive[image] | (cells[image, owner[image]] > 1)
        distance, cell = away[image, box].masked_fill(~spare, torch.inf).min(0)
        if distance.isinf():
            continue
        cells[image, owner[image, cell]] -= positive[image, cell].long()
        cells[image, box] = 1
        owner[image, cell], positive[image, cell] = box, True


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

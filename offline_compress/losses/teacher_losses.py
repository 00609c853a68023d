"""How far a student is from its teacher: in features, masks and vehicles. 0: nowhere."""

from typing import Protocol

import torch
import torch.nn.functional as F

from offline_compress.data.targets import Targets
from offline_compress.losses.boxes import generalised_iou
from offline_compress.losses.mask_losses import SMOOTHING

NORM_EPS = 1e-3
"""Added to variances, and small beside those at the taps of trained networks: the gradient of a
channel that hardly varies over a batch stays bounded."""
SURE = 0.1
"""Least score of a teacher's vehicle whose box is learnt."""


class Answers(Protocol):
    """What one layer of a head says of each of its A cells or queries."""

    @property
    def logits(self) -> torch.Tensor:
        """[N, A, classes]"""

    @property
    def boxes(self) -> torch.Tensor:
        """[N, A, 4] x1, y1, x2, y2"""


def distances(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Half the squared difference of features standardised per channel over the batch, [N, H, W]:
    its mean over the channels.

    The mean of these is, but for NORM_EPS, 1 - r, r being the correlation over images and pixels,
    averaged over the channels (arXiv 2207.02039): 0 for features that agree up to scale and offset,
    1 for unrelated ones. Computed in float32.

    Args:
        student, teacher: [N, C, H, W] of one shape.
    """
    return F.mse_loss(standardised(student), standardised(teacher), reduction="none").mean(1) / 2


def standardised(features: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W] with mean 0 and variance 1 of every channel over N, H and W, float32."""
    return F.batch_norm(features.float(), None, None, training=True, eps=NORM_EPS)


def foreground(targets: Targets, height: int, width: int) -> torch.Tensor:
    """Weights [N, height, width] of a level's cells, which add up to 1: every labelled vehicle of
    the batch has the same share, spread evenly over its box. All 0 where there is none.

    A cell that a box covers in part has that part of it, so that no vehicle is too small.
    """
    vehicles = ((targets.kinds >= 0) & targets.has_boxes[:, None]).float()
    image_height, image_width = targets.image_size
    across = _covered(targets.boxes[..., 0::2] * (width / image_width), width)
    along = _covered(targets.boxes[..., 1::2] * (height / image_height), height)
    shares = vehicles[..., None, None] * along[..., None] * across[..., None, :]
    return shares.sum(1) / vehicles.sum().clamp(min=1)


def _covered(intervals: torch.Tensor, cells: int) -> torch.Tensor:
    """Shares [N, M, cells] of the intervals [N, M, 2], in cells, that lie in each cell."""
    begin = torch.arange(cells, device=intervals.device)
    low, high = intervals[..., :1], intervals[..., 1:]
    length = (torch.minimum(high, begin + 1) - torch.maximum(low, begin)).clamp(min=0)
    return length / length.sum(-1, keepdim=True).clamp(min=1e-9)


def mask_divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Cross-entropy + Dice with the teacher's probabilities in place of labels, less what a
    perfect copy would have: 0 for equal probabilities.

    Dice is that of arXiv 2303.16296, whose least value is at the label even if that is no 0 or 1,
    and which is the usual one if it is.

    Args:
        student, teacher: logits [N, H, W].
    """
    aim = teacher.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(teacher, aim)
    divergence = F.binary_cross_entropy_with_logits(student, aim) - entropy
    found = student.sigmoid()
    wrong, both = (found - aim).abs().sum(), (found + aim).sum()
    return divergence + wrong / (both + 2 * SMOOTHING)


def vehicle_divergence(
    student: Answers, teacher: Answers, counted: torch.Tensor, placed: torch.Tensor
) -> torch.Tensor:
    """Quality focal loss (arXiv 2006.04388) towards the teacher's scores, plus 2 x GIoU loss
    towards the boxes of those that are `placed` too, over the cells or queries `counted`, both
    [N, A] bool; 0 if there are none.

    As in the loss of labels, boxes count by score and the sum is divided by that of the scores.
    """
    aim = teacher.logits.sigmoid() * counted[..., None]
    wrong = (student.logits.detach().sigmoid() - aim).abs() * counted[..., None]
    entropy = F.binary_cross_entropy_with_logits(student.logits, aim, reduction="none")
    copy = F.binary_cross_entropy_with_logits(teacher.logits, aim, reduction="none")
    classify = (wrong**2 * (entropy - copy)).sum()
    score = aim.amax(-1)
    sure = (score >= SURE) & placed
    overlap = generalised_iou(student.boxes[sure], teacher.boxes[sure])
    regress = ((1 - overlap) * score[sure]).sum()
    return (classify + 2 * regress) / score[sure].sum().clamp(min=1.0)

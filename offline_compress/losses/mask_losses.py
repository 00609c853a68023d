"""Losses of the two masks, over the labelled pixels of the batch.

Everywhere `logits` is [N, H, W], `target` [N, H, W] uint8: 0, 1 or IGNORE. A batch without a
labelled pixel costs 0.
"""

from typing import Literal

import torch
import torch.nn.functional as F

from offline_compress.data.targets import IGNORE

MaskLoss = Literal["dice", "focal"]
"""`dice`: cross-entropy + Dice. `focal`: focal + cross-entropy for the drivable area and focal +
Tversky for lanes, with the weights of RMT-PPAD (arXiv 2508.06529)."""
FOCAL_WEIGHT, COMPANION_WEIGHT = 24.0, 8.0
ALPHA, GAMMA = 0.25, 2.0
SMOOTHING = 0.5
"""Pixels added to overlap and union, so that an empty mask is no division by zero."""


def drivable_loss(logits: torch.Tensor, target: torch.Tensor, kind: MaskLoss) -> torch.Tensor:
    """Loss of the drivable area, which covers about a third of an image."""
    if kind == "dice":
        return cross_entropy(logits, target) + tversky_loss(logits, target)
    return FOCAL_WEIGHT * focal_loss(logits, target) + COMPANION_WEIGHT * cross_entropy(
        logits, target
    )


def lane_loss(logits: torch.Tensor, target: torch.Tensor, kind: MaskLoss) -> torch.Tensor:
    """Loss of lane paint, which covers about 2 % of an image: what is missed counts more."""
    if kind == "dice":
        return cross_entropy(logits, target, 2.0) + tversky_loss(logits, target)
    return FOCAL_WEIGHT * focal_loss(logits, target) + COMPANION_WEIGHT * tversky_loss(
        logits, target, missed=0.7, false=0.3
    )


def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, positive_weight: float = 1.0
) -> torch.Tensor:
    """Mean binary cross-entropy, foreground pixels weighted by `positive_weight`."""
    valid, truth = _labels(target)
    weight = valid * (1 + (positive_weight - 1) * truth)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, weight, reduction="sum")
    return entropy / valid.sum().clamp(min=1.0)


def focal_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean focal loss (arXiv 1708.02002): pixels that are already right count little."""
    valid, truth = _labels(target)
    probability = logits.sigmoid()
    wrong = truth + probability - 2 * truth * probability  # 1 - probability of the right answer
    weight = valid * (ALPHA * truth + (1 - ALPHA) * (1 - truth)) * wrong**GAMMA
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (weight * entropy).sum() / valid.sum().clamp(min=1.0)


def tversky_loss(
    logits: torch.Tensor, target: torch.Tensor, missed: float = 0.5, false: float = 0.5
) -> torch.Tensor:
    """1 - soft Tversky index (arXiv 1706.05721); with 0.5 and 0.5 soft Dice (arXiv 1606.04797).

    Args:
        missed: weight of foreground taken for background.
        false: weight of background taken for foreground.
    """
    valid, truth = _labels(target)
    probability = logits.sigmoid() * valid
    overlap = (probability * truth).sum()
    wrong = missed * (truth.sum() - overlap) + false * (probability.sum() - overlap)
    index = (overlap + SMOOTHING) / (overlap + wrong + SMOOTHING)
    return (1 - index) * (valid.sum() > 0)


def _labels(target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Float 0 or 1 each: labelled pixels, foreground pixels."""
    return (target != IGNORE).float(), (target == 1).float()

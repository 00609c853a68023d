"""Losses of the two masks."""

import torch
import torch.nn.functional as F

from offline_compress.losses.targets import IGNORE


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

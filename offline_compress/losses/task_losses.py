"""Losses of the three tasks. A task an image has no labels for contributes nothing."""

from dataclasses import dataclass

import torch

from offline_compress.data.targets import Targets
from offline_compress.losses.dense import detection_loss
from offline_compress.losses.mask_losses import MaskLoss, drivable_loss, lane_loss
from offline_compress.losses.query import query_loss
from offline_compress.models.decoder import QueryDetections
from offline_compress.models.network import NetworkOutput

MASK_WEIGHT: dict[MaskLoss, float] = {"dice": 2.0, "focal": 0.25}
QUERY_WEIGHT = 0.25


@dataclass(frozen=True, slots=True)
class TaskLosses:
    """Scalar loss per task."""

    detection: torch.Tensor
    drivable: torch.Tensor
    lane: torch.Tensor

    def total(self) -> torch.Tensor:
        """Plain sum: the terms are scaled so that their gradients on the trunk are comparable."""
        return self.detection + self.drivable + self.lane


def task_losses(
    output: NetworkOutput, targets: Targets, mask_loss: MaskLoss = "dice"
) -> TaskLosses:
    """Losses of one batch, weighted.

    The constant weights bring the norms of the tasks' gradients on backbone and encoder to one
    order of magnitude, whatever the kinds of loss (docs/training.md, `bench/gradient_norms.py`).
    A query loss with `focal` masks keeps the proportions of RMT-PPAD (arXiv 2508.06529): 1 for
    detection to 24 and 8 for the parts of the masks.
    """
    found = output.detections
    if isinstance(found, QueryDetections):
        detection = QUERY_WEIGHT * query_loss(found, targets)
    else:
        detection = detection_loss(found, targets)
    weight = MASK_WEIGHT[mask_loss]
    return TaskLosses(
        detection,
        weight * drivable_loss(output.drivable, targets.drivable, mask_loss),
        weight * lane_loss(output.lane, targets.lane, mask_loss),
    )

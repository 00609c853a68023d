"""Losses of the three tasks. A task an image has no labels for contributes nothing."""

from dataclasses import dataclass

import torch

from offline_compress.losses.dense import detection_loss
from offline_compress.losses.masks import MaskLoss, drivable_loss, lane_loss
from offline_compress.losses.query import query_loss
from offline_compress.losses.targets import Targets
from offline_compress.models.decoder import QueryDetections
from offline_compress.models.network import NetworkOutput


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
    """Losses of one batch."""
    found = output.detections
    if isinstance(found, QueryDetections):
        detection = query_loss(found, targets)
    else:
        detection = detection_loss(found, targets)
    return TaskLosses(
        detection,
        2 * drivable_loss(output.drivable, targets.drivable, mask_loss),
        2 * lane_loss(output.lane, targets.lane, mask_loss),
    )

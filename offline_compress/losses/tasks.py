"""Losses of the three tasks. A task an image has no labels for contributes nothing."""

from dataclasses import dataclass

import torch

from offline_compress.losses.dense import detection_loss
from offline_compress.losses.masks import mask_loss
from offline_compress.losses.targets import Targets
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


def task_losses(output: NetworkOutput, targets: Targets) -> TaskLosses:
    """Losses of one batch; paint covers about 2 % of an image, hence its weight."""
    return TaskLosses(
        detection_loss(output.detections, targets),
        2 * mask_loss(output.drivable, targets.drivable, 1.0),
        2 * mask_loss(output.lane, targets.lane, 2.0),
    )

"""Losses of the three tasks. A task an image has no labels for contributes nothing."""

from dataclasses import dataclass

import torch

from offline_compress.data.targets import IGNORE, Targets
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


def _detection(output: NetworkOutput, targets: Targets, _mask_loss: MaskLoss) -> torch.Tensor:
    found = output.detections
    if isinstance(found, QueryDetections):
        return QUERY_WEIGHT * query_loss(found, targets)
    return detection_loss(found, targets)


def _drivable(output: NetworkOutput, targets: Targets, mask_loss: MaskLoss) -> torch.Tensor:
    return MASK_WEIGHT[mask_loss] * drivable_loss(output.drivable, targets.drivable, mask_loss)


def _lane(output: NetworkOutput, targets: Targets, mask_loss: MaskLoss) -> torch.Tensor:
    return MASK_WEIGHT[mask_loss] * lane_loss(output.lane, targets.lane, mask_loss)


LOSSES = {"detection": _detection, "drivable": _drivable, "lane": _lane}
"""Task -> its weighted loss of what a network returns."""


def task_losses(
    output: NetworkOutput, targets: Targets, mask_loss: MaskLoss = "dice"
) -> TaskLosses:
    """Losses of one batch, weighted.

    The constant weights bring the norms of the tasks' gradients on backbone and encoder to one
    order of magnitude, whatever the kinds of loss (docs/training.md, `bench/gradient_norms.py`).
    A query loss with `focal` masks keeps the proportions of RMT-PPAD (arXiv 2508.06529): 1 for
    detection to 24 and 8 for the parts of the masks.
    """
    return TaskLosses(**{task: loss(output, targets, mask_loss) for task, loss in LOSSES.items()})


def labelled(task: str, targets: Targets) -> bool:
    """Whether any image of a batch is labelled for a task."""
    if task == "detection":
        return bool(targets.has_boxes.any())
    return bool((getattr(targets, task) != IGNORE).any())

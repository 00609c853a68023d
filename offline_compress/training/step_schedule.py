"""The course of a run: its steps, its learning rate, and what weight decay applies to."""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from offline_compress.recipe.parts import Schedule

FINAL_RATE = 0.01
WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.MultiheadAttention)


@dataclass(frozen=True, slots=True)
class StepSchedule:
    """A schedule counted in optimiser steps."""

    steps_per_epoch: int
    steps: int
    warmup_steps: int

    @classmethod
    def of(cls, schedule: Schedule) -> "StepSchedule":
        """An epoch has whole steps, and at least one."""
        steps_per_epoch = max(1, schedule.samples_per_epoch // schedule.batch)
        return cls(
            steps_per_epoch,
            steps_per_epoch * schedule.epochs,
            max(1, round(schedule.warmup_epochs * steps_per_epoch)),
        )

    def rate(self, step: int) -> float:
        """Learning rate of a step, 1 at the peak: linear warm-up, then cosine to FINAL_RATE."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
        return FINAL_RATE + (1 - FINAL_RATE) * cosine


def parameter_groups(model: nn.Module, schedule: Schedule) -> list[dict[str, Any]]:
    """Groups of an optimiser, each with its `peak_rate` and `weight_decay`.

    Weight decay is for the weights of convolutions, linear layers and attention only: not for
    norms, biases, embeddings and what mixes features. The backbone learns at `backbone_rate` of
    the learning rate.
    """
    decayed = {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, WEIGHTED) and parameter.ndim > 1
    }
    backbone: set[nn.Parameter] = set()
    if schedule.backbone_rate != 1:
        backbone = set(model.get_submodule("backbone").parameters())
    groups = []
    for in_backbone in (True, False):
        part = [p for p in model.parameters() if (p in backbone) == in_backbone]
        peak = schedule.learning_rate * (schedule.backbone_rate if in_backbone else 1)
        for decay, parameters in (
            (schedule.weight_decay, [p for p in part if p in decayed]),
            (0.0, [p for p in part if p not in decayed]),
        ):
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "peak_rate": peak})
    return groups

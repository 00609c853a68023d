"""A miniature teacher to prune, with its recipe and a validation that says what it is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtc_perception.util.progress import Count
from offline_compress.export import count_parameters
from offline_compress.models.registry import (
    ModelSpec,
    load_checkpoint,
)
from offline_compress.recipe.recipe import Recipe
from support.tiny_training import tiny_recipe

HEIGHT, WIDTH = 128, 192
SCHEDULE = {
    "epochs": 2,
    "samples_per_epoch": 8,
    "batch": 4,
    "learning_rate": 0.002,
    "weight_decay": 0.01,
    "warmup_epochs": 0.5,
    "ema_decay": 0.9,
    "validate_every_epochs": 1,
}


def recipe_of(dataset: Path, **prune: Any) -> Recipe:
    """Two steps to 60 % of the parameters, without a latency table, unless told otherwise."""
    rules = {
        "budget": {"parameters": 0.6},
        "cost": "macs",
        "steps": 2,
        "round_to": 4,
        "least_channels": 4,
        "epochs_between": 0.5,
        "guard": {"detection": 100, "drivable": 100, "lane": 100},
    }
    compress = {
        "scoring": {"images": 4, "batch": 2},
        "prune": rules | prune,
        "recover": {"schedule": SCHEDULE},
    }
    return tiny_recipe(dataset, compress=compress)


@dataclass
class Validation:
    """Scores that fall by `loss` with every network validated but the first, and who came."""

    loss: float = 0.001
    parameters: list[int] = field(default_factory=list)
    fails_at: int | None = None

    def __call__(self, model: nn.Module, spec: ModelSpec, count: Count) -> dict[str, Any]:
        count(0, 1)
        if len(self.parameters) == self.fails_at:
            raise KeyboardInterrupt
        self.parameters.append(count_parameters(model))
        score = 0.8 - self.loss * (len(self.parameters) > 1)
        return {
            "detection": {"map50": score, "map50_95": score - 0.2, "best_f1": score - 0.1},
            "drivable": {"miou": score},
            "lane": {"iou": None},
        }


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_checkpoint(path).state_dict() for path in (one, other))
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )

"""Training of the miniature network: its data set, a validation that says what it is told."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from mtc_perception.util.progress import Count
from offline_compress.models.registry import ModelSpec
from offline_compress.training.learner import Learner
from offline_compress.training.log import LOG_FILE
from offline_compress.training.trainer import Trainer
from support.tiny_training import digest


class Scores:
    """Validation that says what it is told, one score after the other."""

    def __init__(self, *scores: float) -> None:
        self.left = list(scores)

    def __call__(self, _model: nn.Module, _spec: ModelSpec, _count: Count) -> dict[str, Any]:
        value = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return {
            "detection": {"map50": value, "map50_95": value, "best_f1": value},
            "drivable": {"miou": value},
            "lane": {"iou": value},
        }


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / LOG_FILE).read_text().splitlines()]


def weights(trainer: Trainer) -> str:
    return digest(trainer.learner.model.state_dict()) + digest(trainer.learner.average.state)


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    train_step = Learner.train_step

    def interrupted(learner: Learner, passes: Any) -> Any:
        if learner.step == step:
            signal.raise_signal(number)
        return train_step(learner, passes)

    monkeypatch.setattr(Learner, "train_step", interrupted)

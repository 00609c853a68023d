"""A miniature network and recipe, and `mtc-compress` knowing them: `python tiny_training.py train`.

A separate program for the tests that need a process of its own: to kill it, to launch it twice.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import torch

from offline_compress import cli
from offline_compress.models.registry import MODELS
from offline_compress.recipe.recipe import Recipe
from offline_compress.training import lineage
from offline_compress.training.trainer import Trainer
from support.tiny_networks import TINY

LAUNCH = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
WEIGHTS_ENV = "TINY_TRAINING_DIGESTS"
"""Folder in which each process leaves the digest of its final weights."""


def tiny_recipe(dataset: Path, schedule: dict[str, Any] | None = None, **fields: Any) -> Recipe:
    """Two epochs of two steps of four samples, unless told otherwise."""
    source = {"root": str(dataset), "split": "train"}
    content = {
        "name": "tiny",
        "model": "tiny",
        "classes": ["vehicle"],
        "input": {"height": 128, "width": 192},
        "crop": {"height": 64, "width": 96},
        "train": [source],
        "validate_on": source,
        "schedule": {
            "epochs": 2,
            "samples_per_epoch": 8,
            "batch": 4,
            "learning_rate": 0.002,
            "weight_decay": 0.01,
            "warmup_epochs": 0.5,
            "ema_decay": 0.9,
            "validate_every_epochs": 1,
        }
        | (schedule or {}),
        "licence": "test",
    }
    return Recipe.model_validate(content | fields)


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of tensors, bit for bit."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def register() -> None:
    """Make `tiny` a known model."""
    MODELS["tiny"] = ("conv_multitask", TINY)


def main() -> None:
    """`mtc-compress` with the miniature network."""
    register()
    torch.set_num_threads(1)
    # The checkout may move on between two runs that are compared byte for byte.
    lineage.provenance = lambda: {"commit": "test"}  # type: ignore[assignment]
    run = Trainer.run

    def run_and_tell(trainer: Trainer) -> None:
        run(trainer)
        learner = trainer.learner
        digests = digest(learner.model.state_dict()) + digest(learner.average.state)
        path = Path(os.environ[WEIGHTS_ENV]) / f"rank{trainer.accelerator.process_index}"
        path.write_text(digests)

    if WEIGHTS_ENV in os.environ:
        Trainer.run = run_and_tell  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bench.gradient_norms`: how hard each task pulls on a model's trunk while it trains."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bench.common import ends_in_one_line, write_result
from mtc_perception.core.tasks import TASKS
from mtc_perception.util.progress import Progress
from offline_compress.data.batch import Batch, collate
from offline_compress.data.dataset import TrainingSet, View
from offline_compress.export import normalise
from offline_compress.losses.mask_losses import MaskLoss
from offline_compress.losses.task_losses import TaskLosses, task_losses
from offline_compress.models.registry import load_checkpoint, model_spec
from offline_compress.recipe.parts import DataSource, InputPx

CROP = InputPx(height=160, width=256)
"""Small, so that two cores answer in minutes."""
BATCH, BATCHES = 4, 4
LEARNING_RATE, WEIGHT_DECAY, CLIP = 5e-4, 0.05, 10.0


def samples(root: Path, seed: int) -> Iterator[Batch]:
    """Endless augmented batches of split `train`."""
    source, view = DataSource(root=root, split="train"), View(CROP, (0.8, 1.7))
    data = TrainingSet([source], CROP, {0: view}, seed)
    number = 0
    while True:
        yield collate([data[number + k] for k in range(BATCH)])
        number += BATCH


def trunk_norms(model: nn.Module, losses: TaskLosses) -> list[float]:
    """Norm of each task's gradient over the parameters of backbone and encoder."""
    trunk = [*model.backbone.parameters(), *model.encoder.parameters()]  # type: ignore[union-attr]
    norms = []
    for task in TASKS:
        gradients = torch.autograd.grad(
            getattr(losses, task), trunk, retain_graph=True, allow_unused=True
        )
        squares = [g.square().sum() for g in gradients if g is not None]
        norms.append(torch.stack(squares).sum().sqrt().item())
    return norms


def measure(
    model_name: str, mask_loss: MaskLoss, root: Path, marks: Sequence[int], progress: Progress
) -> list[dict[str, Any]]:
    """One row per mark: the mean loss and norm of each task after that many optimiser steps.

    `model_name` is a name of the registry or the path of a checkpoint.
    """
    torch.manual_seed(0)
    if Path(model_name).is_dir():
        model = load_checkpoint(Path(model_name)).train()
    else:
        model = model_spec(model_name, ["vehicle"], CROP.height, CROP.width).build().train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    stream = samples(root, 0)
    rows = []
    tick = progress.ticker(f"{model_name}, {mask_loss}", marks[-1] + 1 + len(marks) * BATCHES)
    for step in range(marks[-1] + 1):
        if step in marks:
            norms, values = [], []
            for _ in range(BATCHES):
                batch = next(stream)
                output = model(normalise(batch.images), batch.targets)
                losses = task_losses(output, batch.targets, mask_loss)
                norms.append(trunk_norms(model, losses))
                values.append([getattr(losses, task).item() for task in TASKS])
                tick()
            rows.append(
                {"model": model_name, "mask_loss": mask_loss, "step": step}
                | {f"{task}_norm": n for task, n in zip(TASKS, _mean(norms), strict=True)}
                | {f"{task}_loss": v for task, v in zip(TASKS, _mean(values), strict=True)}
            )
        batch = next(stream)
        output = model(normalise(batch.images), batch.targets)
        loss = task_losses(output, batch.targets, mask_loss).total()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        tick()
    return rows


def _mean(rows: list[list[float]]) -> list[float]:
    return [round(value, 4) for value in torch.tensor(rows).mean(0).tolist()]


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gradient_norms",
        description="Train models for a few steps and print the norm of each "
        "task's gradient on backbone and encoder, to weight the tasks by.",
    )
    parser.add_argument("models", nargs="+", help="names of the registry or checkpoints")
    parser.add_argument("--data", type=Path, required=True, help="data set with all three tasks")
    parser.add_argument(
        "--marks", type=int, nargs="+", default=[0, 10, 40], help="steps (%(default)s)"
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    console = Console()
    rows = []
    with Progress(console=console) as progress:
        for name in options.models:
            for kind in get_args(MaskLoss):
                rows += measure(name, kind, options.data, sorted(options.marks), progress)
    shown = ("model", "mask_loss", "step", *(f"{task}_norm" for task in TASKS))
    table = Table(*shown)
    for row in rows:
        table.add_row(*(str(row[name]) for name in shown))
    console.print(table)
    console.print(f"wrote {write_result(options.results, 'gradient_norms', {'rows': rows})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

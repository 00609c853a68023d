"""What scoring for three tasks costs beside one plain Taylor pass over the same batches."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bench.common import tracked, write_result
from bench.training import RECIPES, ROADS
from mtc_perception.core.tasks import TASKS
from mtc_perception.util.memory import keep_memory
from offline_compress.channels.description import Description
from offline_compress.channels.groups import channel_groups
from offline_compress.data.batch import Batch
from offline_compress.export import normalise
from offline_compress.importance.calibration import calibration_batches
from offline_compress.importance.measure import labelled_losses, scoring_mode
from offline_compress.importance.multi_task import description_of
from offline_compress.importance.scorer import Scorer
from offline_compress.losses.mask_losses import MaskLoss
from offline_compress.losses.task_losses import task_losses
from offline_compress.recipe.compression import Scoring
from offline_compress.recipe.recipe import load_recipe
from offline_compress.training.accelerator import start_accelerator
from offline_compress.training.lineage import trained_spec

MODELS = ("mtc_xs", "mtc_s", "rmt_ppad_n")
ROUNDS = 6
"""Pairs of passes, after one that does not count."""
MOST = 2.5
"""Target: cost of scoring over that of a plain pass."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one network."""

    batch: int
    plain_s: list[float]
    """Of each forward and backward pass of the summed loss."""
    scoring_s: list[float]
    """Of scoring the same batches, in the same order."""
    gradients_mb: float
    """What the gradients of the three tasks take while a batch is scored."""
    sums_mb: float
    """What is kept from batch to batch."""

    @property
    def ratios(self) -> list[float]:
        """Of the pairs."""
        return [s / p for s, p in zip(self.scoring_s, self.plain_s, strict=True)]


def bench_scoring(results: Path, console: Console) -> bool:
    """Measure, print and write `scoring.json`; whether all networks meet the target.

    Raises UserError.
    """
    rows: dict[str, dict[str, Any]] = {}
    keep_memory()  # as in the course of a training, which scoring is part of
    device = start_accelerator("fp32", 1).device
    for name in MODELS:
        cost = measure(name, device, console)
        quarters = statistics.quantiles(cost.ratios, n=4)
        rows[name] = {
            "batch": cost.batch,
            "plain_s": round(statistics.median(cost.plain_s), 3),
            "scoring_s": round(statistics.median(cost.scoring_s), 3),
            "ratio": round(statistics.median(cost.ratios), 3),
            "ratio_quartiles": [round(quarters[0], 3), round(quarters[2], 3)],
            "gradients_mb": round(cost.gradients_mb, 1),
            "sums_mb": round(cost.sums_mb, 3),
        }
    met = all(row["ratio"] <= MOST for row in rows.values())
    content: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "target_ratio": MOST,
        "met": met,
        "models": rows,
    }
    console.print(_table(content))
    console.print(f"wrote {write_result(results, 'scoring', content)}\n", highlight=False)
    return met


def measure(name: str, device: torch.device, console: Console) -> Cost:
    """Plain passes and scoring in turns over the bench's roads, at the recipe's input size."""
    recipe = load_recipe(RECIPES / f"{name}.yaml").model_copy(
        update={"train": [ROADS], "start_from": None, "backbone_weights": None}
    )
    model = trained_spec(recipe).build().to(device)
    description = description_of(model, recipe.mask_loss)
    scorer = Scorer(model, channel_groups(model, description), TASKS)
    batches = calibration_batches(recipe, Scoring(images=32))
    plain_s: list[float] = []
    scoring_s: list[float] = []
    with scoring_mode(model):
        for number in tracked(range(-1, ROUNDS), f"scoring {name}", console):
            batch = batches[number % len(batches)].to(device)

            # Whatever else the machine does, it does it to both.
            turns = [
                (partial(_plain_pass, model, batch, recipe.mask_loss), plain_s),
                (partial(_score, scorer, model, batch, description), scoring_s),
            ]
            for work, times in turns if number % 2 else reversed(turns):
                elapsed = _seconds(work)
                if number >= 0:
                    times.append(elapsed)
    return Cost(
        len(batches[0].images),
        plain_s,
        scoring_s,
        3 * sum(weight.nbytes for weight in scorer.weights) / 1e6,
        scorer.sums.nbytes / 1e6,
    )


def _plain_pass(model: nn.Module, batch: Batch, mask_loss: MaskLoss) -> None:
    model.zero_grad()
    output = model(normalise(batch.images))
    task_losses(output, batch.targets, mask_loss).total().backward()


def _score(scorer: Scorer, model: nn.Module, batch: Batch, description: Description) -> None:
    scorer.add(labelled_losses(model, batch, description), len(batch.images))


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _table(content: dict[str, Any]) -> Table:
    table = Table(
        title=f"Scoring beside a plain Taylor pass, per batch, on {content['device']} "
        f"(target ratio <= {MOST})",
        title_justify="left",
    )
    table.add_column("network")
    for column in ("batch", "plain s", "scoring s", "ratio", "quartiles", "gradients MB"):
        table.add_column(column, justify="right")
    for name, row in content["models"].items():
        low, high = row["ratio_quartiles"]
        table.add_row(
            name,
            str(row["batch"]),
            f"{row['plain_s']:.2f}",
            f"{row['scoring_s']:.2f}",
            f"{row['ratio']:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{row['gradients_mb']:.0f}",
        )
    return table

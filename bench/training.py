"""Training throughput of every registered model's recipe on this machine."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.common import write_result
from offline_compress.data.batch import Batch
from offline_compress.data.loader_workers import worker_count
from offline_compress.recipe.parts import DataSource, Schedule, SyntheticRoads
from offline_compress.recipe.recipe import Recipe, load_recipe
from offline_compress.roads.road_dataset import render_missing
from offline_compress.training.accelerator import start_accelerator
from offline_compress.training.learner import Learner
from offline_compress.training.lineage import trained_spec
from offline_compress.training.samples import batches, training_set

RECIPES = Path("config/recipes")
ROADS = DataSource(
    root=Path("out/bench_roads"),
    split="train",
    synthetic=SyntheticRoads(count=32, width=640, height=384, seed=1),
)
"""What is trained on, so that no data set is needed; drawn and augmented as the recipe says."""
SECONDS = 20.0
"""Least time of a measurement; at least MIN_STEPS steps after one that does not count."""
MIN_STEPS = 3
MOST_ON_CPU = 4
"""Largest batch on a CPU: the images per second hardly depend on it, the time of a step does."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Images per second of one recipe."""

    batch: int
    network: float
    """Of training steps over batches that lie in memory."""
    loader: float
    """Of drawing, augmenting and stacking samples, with nothing else to do."""
    training: float
    """Of training steps over what the loader makes meanwhile."""


def bench_training(results: Path, console: Console) -> None:
    """Measure every model's first recipe, print and write `training.json`. Raises UserError."""
    render_missing([ROADS])
    recipes: dict[str, Recipe] = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        recipe = load_recipe(path)
        recipes.setdefault(recipe.model, recipe)
    rows: dict[str, dict[str, Any]] = {}
    accelerator = start_accelerator("auto", 1)
    for name, recipe in recipes.items():
        with console.status(f"training {name}"):
            found = measure(recipe)
        rows[name] = {
            "recipe": recipe.name,
            "crop": f"{recipe.crop.width}x{recipe.crop.height}",
            "batch": found.batch,
            "network_images_per_s": round(found.network, 2),
            "loader_images_per_s": round(found.loader, 2),
            "training_images_per_s": round(found.training, 2),
        }
    device = accelerator.device
    content: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "precision": accelerator.mixed_precision.replace("no", "fp32"),
        "threads": torch.get_num_threads(),
        "workers": worker_count(),
        "models": rows,
    }
    console.print(_table(content))
    console.print(f"wrote {write_result(results, 'training', content)}\n", highlight=False)


def measure(recipe: Recipe, seconds: float = SECONDS) -> Throughput:
    """Throughput of one recipe on the bench's own roads."""
    on_gpu = torch.cuda.is_available()
    batch = recipe.schedule.batch if on_gpu else min(recipe.schedule.batch, MOST_ON_CPU)
    schedule = Schedule.model_validate(
        recipe.schedule.model_dump() | {"batch": batch, "accumulate": 1}
    )
    changes = {"train": [ROADS], "schedule": schedule, "start_from": None, "backbone_weights": None}
    recipe = recipe.model_copy(update=changes)
    learner = Learner(
        recipe,
        trained_spec(recipe),
        start_accelerator(recipe.precision, 1, recipe.deterministic),
        None,
    )
    data = training_set(recipe)
    for _ in data.decoded.fill():
        pass

    def stream() -> Iterator[Batch]:
        return batches(data, range(schedule.samples_per_epoch * schedule.epochs), batch, on_gpu)

    ready = stream()
    in_memory = cycle([next(ready) for _ in range(4)])
    del ready
    return Throughput(
        batch,
        batch * _rate(in_memory, learner, seconds),
        batch * _rate(stream(), None, seconds),
        batch * _rate(stream(), learner, seconds),
    )


def _rate(stream: Iterator[Batch], learner: Learner | None, seconds: float) -> float:
    """Steps per second over the batches of a stream."""
    steps, begin = -1, 0.0
    for batch in stream:
        if learner:
            learner.train_step([batch])  # reads the losses, so that it is over when it returns
        steps += 1
        if steps == 0:
            begin = time.perf_counter()
        elapsed = time.perf_counter() - begin
        if steps >= MIN_STEPS and elapsed >= seconds:
            break
    return steps / elapsed


def _table(content: dict[str, Any]) -> Table:
    table = Table(
        title=f"Training on {content['device']} ({content['precision']}), images per second",
        title_justify="left",
    )
    for column in ("network", "crop"):
        table.add_column(column)
    for column in ("batch", "network alone", "loader alone", "training"):
        table.add_column(column, justify="right")
    for name, row in content["models"].items():
        figures = [row[f"{part}_images_per_s"] for part in ("network", "loader", "training")]
        table.add_row(name, row["crop"], str(row["batch"]), *(f"{one:.1f}" for one in figures))
    return table

"""Training: one resumable loop for every model of the registry."""

import json
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn
from torch.utils.data import DataLoader

from mtc_perception.bundle import sha256_hex
from mtc_perception.errors import UserError
from mtc_perception.memory import keep_memory
from offline_compress.data.dataset import RunningNumbers, TrainingSet, collate
from offline_compress.export import normalise
from offline_compress.losses.tasks import TaskLosses, task_losses
from offline_compress.models.registry import (
    WEIGHTS_FILE,
    ModelSpec,
    load_spec,
    load_weights,
    model_spec,
    save_checkpoint,
)
from offline_compress.recipe import Recipe, Schedule

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
FINAL_RATE = 0.01
CHECKPOINT_EVERY_S = 300.0
GRADIENT_NORM = 10.0
SELECTED_BY = {"detection": ("recall", "map50"), "drivable": ("miou",), "lane": ("iou",)}

Validator = Callable[[nn.Module, ModelSpec], dict[str, Any]]
"""Metric JSON of a network, for the log and to pick the best epoch."""


def learning_rate(schedule: Schedule, step: int, steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then cosine decay to FINAL_RATE of the peak."""
    if step < warmup_steps:
        return schedule.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return schedule.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


class MovingAverage:
    """Exponential moving average of a network's parameters and BatchNorm statistics."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Blend in the current weights; early steps average less, so that it catches up."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.state[key].lerp_(value, 1 - decay)
            else:
                self.state[key].copy_(value)


def score(metrics: dict[str, Any]) -> float:
    """One number to pick the best epoch by: the mean over the labelled tasks' headline metrics.

    Raises UserError if no task is labelled.
    """
    tasks = [
        [metrics.get(task, {}).get(name) for name in names] for task, names in SELECTED_BY.items()
    ]
    labelled = [sum(values) / len(values) for values in tasks if None not in values]
    if not labelled:
        raise UserError("the validation set has no labels for any task")
    return sum(labelled) / len(labelled)


def describe(metrics: dict[str, Any]) -> str:
    """The headline metrics of the labelled tasks as one line."""
    return " ".join(
        f"{task} {name} {metrics[task][name]:.4f}"
        for task, names in SELECTED_BY.items()
        for name in names
        if metrics.get(task, {}).get(name) is not None
    )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for convolution and linear weights only, not for norms and biases."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def trained_spec(recipe: Recipe) -> ModelSpec:
    """Shape and history of the network that `recipe` trains."""
    spec = model_spec(recipe.model, recipe.classes, recipe.input.height, recipe.input.width)
    data = [f"{source.root.name} {source.split}" for source in recipe.train]
    step = f"{spec.architecture} trained by recipe {recipe.name}"
    if recipe.start_from is None:
        return replace(spec, data=data, licence=recipe.licence, lineage=[f"{step} from scratch"])
    start = load_spec(recipe.start_from)
    sha256 = sha256_hex((recipe.start_from / WEIGHTS_FILE).read_bytes())
    return replace(
        spec,
        data=list(dict.fromkeys([*start.data, *data])),
        licence=recipe.licence,
        lineage=[*start.lineage, f"{step} from the weights with sha256 {sha256}"],
    )


class Trainer:
    """One training run in one folder: `last/` and `best/` checkpoints, state and log."""

    def __init__(self, recipe: Recipe, out: Path, validate: Validator) -> None:
        """Continue the run in folder `out`, or begin one there if there is none.

        Raises UserError if the folder holds a run of a different recipe.
        """
        self.recipe, self.out, self.validate = recipe, out, validate
        schedule = recipe.schedule
        self.steps_per_epoch = max(1, schedule.samples_per_epoch // schedule.batch)
        self.steps = self.steps_per_epoch * schedule.epochs
        self.warmup = max(1, round(schedule.warmup_epochs * self.steps_per_epoch))
        begun = (out / STATE_FILE).exists()
        # A run under way no longer needs the checkpoint it started from.
        self.spec = load_spec(out / "last") if begun else trained_spec(recipe)
        torch.manual_seed(recipe.seed)
        self.model = self.spec.build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, schedule.weight_decay), schedule.learning_rate
        )
        self.data = TrainingSet(
            recipe.train, recipe.input, recipe.crop, recipe.scale_jitter, recipe.seed
        )
        self.step, self.best = 0, -1.0
        self._stop = False
        if begun:
            self._resume(out / STATE_FILE)
            return
        if recipe.start_from:
            load_weights(self.model, recipe.start_from)
        self.average = MovingAverage(self.model, schedule.ema_decay)

    def _resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        if Recipe.model_validate_json(state["recipe"]) != self.recipe:
            raise UserError(
                f"{self.out} holds a run of a different recipe; choose another --out or delete it"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = MovingAverage(self.model, self.recipe.schedule.ema_decay)
        self.average.state = state["average"]
        self.step, self.best = state["step"], state["best"]

    def save(self) -> None:
        """Write everything that continuing the run needs, atomically."""
        save_checkpoint(self.out / "last", self.spec, self.averaged())
        part = self.out / f".{STATE_FILE}.part"
        torch.save(
            {
                "recipe": self.recipe.model_dump_json(),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state,
                "step": self.step,
                "best": self.best,
            },
            part,
        )
        os.replace(part, self.out / STATE_FILE)

    def averaged(self) -> nn.Module:
        """A copy of the network with the averaged weights, in eval mode."""
        model = self.spec.build()
        model.load_state_dict(self.average.state)
        return model.eval()

    def train_step(self, images: torch.Tensor, targets: Any) -> TaskLosses:
        """One optimiser step. Raises UserError when the loss is not finite."""
        rate = learning_rate(self.recipe.schedule, self.step, self.steps, self.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            output = self.model(normalise(images))
        losses = task_losses(output, targets)
        total = losses.total()
        if not torch.isfinite(total):
            raise UserError(
                f"the loss became {total.item()} at step {self.step}; "
                "lower learning_rate or lengthen warmup_epochs in the recipe, and train into "
                "another --out"
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        self.average.update(self.model, self.step)
        self.step += 1
        return losses

    def stop(self) -> None:
        """Make `run` save after the step under way and end with KeyboardInterrupt."""
        self._stop = True

    def run(self) -> dict[str, Any]:
        """Train to the end; returns the last metrics. Ctrl-C is `stop`."""
        keep_memory()
        previous = signal.signal(signal.SIGINT, lambda *_: self.stop())
        try:
            return self._run()
        finally:
            signal.signal(signal.SIGINT, previous)

    def _run(self) -> dict[str, Any]:
        self.out.mkdir(parents=True, exist_ok=True)
        batch = self.recipe.schedule.batch
        metrics: dict[str, Any] = {}
        with _progress() as progress:
            loading = progress.add_task("decoding images", total=len(self.data))
            for done in self.data.preload():
                progress.update(loading, completed=done)
            loader = DataLoader(
                self.data,
                batch,
                sampler=RunningNumbers(self.step * batch, self.steps * batch),
                collate_fn=collate,
                num_workers=max(1, min(8, (os.cpu_count() or 2) // 2)),
                worker_init_fn=_quiet_worker,
                prefetch_factor=4,
            )
            bar = progress.add_task("training", total=self.steps, completed=self.step)
            saved_s = time.monotonic()
            sums, count = torch.zeros(3), 0
            for images, targets in loader:
                losses = self.train_step(images, targets)
                sums += torch.stack((losses.detection, losses.drivable, losses.lane)).detach()
                count += 1
                progress.update(bar, completed=self.step)
                # Before saving: what is saved at the end of an epoch has been validated.
                if self.step % self.steps_per_epoch == 0:
                    metrics = self._end_epoch(progress, (sums / count).tolist())
                    sums, count = torch.zeros(3), 0
                if self._stop:
                    self.save()
                    progress.console.print(f"stopped at step {self.step}; the same command resumes")
                    raise KeyboardInterrupt
                if time.monotonic() - saved_s > CHECKPOINT_EVERY_S:
                    self.save()
                    saved_s = time.monotonic()
        self.save()
        return metrics

    def _end_epoch(self, progress: Progress, losses: list[float]) -> dict[str, Any]:
        epoch = self.step // self.steps_per_epoch
        schedule = self.recipe.schedule
        row: dict[str, Any] = {"epoch": epoch, "step": self.step}
        row["loss"] = dict(zip(("detection", "drivable", "lane"), losses, strict=True))
        text = " ".join(f"{k} {v:.3f}" for k, v in row["loss"].items())
        metrics: dict[str, Any] = {}
        if epoch % schedule.validate_every_epochs == 0 or epoch == schedule.epochs:
            model = self.averaged()
            metrics = self.validate(model, self.spec)
            row["metrics"] = metrics
            current = score(metrics)
            if current > self.best:
                self.best = current
                save_checkpoint(self.out / "best", self.spec, model)
            text += f" | {describe(metrics)} | score {current:.4f} best {self.best:.4f}"
        with (self.out / LOG_FILE).open("a") as log:
            log.write(json.dumps(row) + "\n")
        progress.console.print(f"epoch {epoch}/{schedule.epochs} {text}", soft_wrap=True)
        return metrics


def _quiet_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C reaches every process of the terminal; the trainer alone decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )

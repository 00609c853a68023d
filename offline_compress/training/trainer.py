"""Training: one resumable loop for every model of the registry, on any number of processes."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from pydantic import ValidationError
from rich.console import Console

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.metrics.figures import SCORED
from mtc_perception.util.differences import differences
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import disk_errors_name
from mtc_perception.util.locking import held
from mtc_perception.util.memory import keep_memory
from mtc_perception.util.progress import Progress
from offline_compress.data.batch import Batch
from offline_compress.data.loader_workers import local_processes
from offline_compress.models.registry import WEIGHTS_FILE, ModelSpec, save_checkpoint
from offline_compress.ready import make_ready
from offline_compress.recipe.recipe import Recipe
from offline_compress.training.accelerator import of_this_machine, start_accelerator
from offline_compress.training.advice import memory_advice
from offline_compress.training.learner import Learner
from offline_compress.training.lineage import progressed, trained_spec
from offline_compress.training.log import RunLog
from offline_compress.training.running_figures import LossMean, Speed, describe_losses
from offline_compress.training.samples import (
    batches,
    sample_numbers,
    samples_per_pass,
    take,
    training_set,
)
from offline_compress.training.state import STATE_FILE, foreign_state, read_state, write_state
from offline_compress.training.stopping import Interrupted, StopRequest
from offline_compress.training.summary import summary
from offline_compress.training.validation import (
    Validator,
    describe,
    score,
    validation_sets,
    validator,
)

LOGGED_EVERY_STEPS = 10
MAY_CHANGE: Any = {
    "checkpoint_minutes": True,
    "precision": True,
    "deterministic": True,
    "schedule": {"accumulate"},
    "tune_on": True,
    "compress": True,
}
"""Fields of a recipe that say how a run is computed, not what, or what comes after it: they may
change in its course."""
SCORED_NAMES = [figure.name for figure in SCORED]
"""What scores are made of, beside them in the state: with another version it may be other figures.
"""
STARTS = ("start_from", "shape_of")
"""Fields of a recipe that name a checkpoint which is read when a run begins."""


class Trainer:
    """One training run in one folder: `last/` and `best/` checkpoints, state and logs."""

    def __init__(self, recipe: Recipe, out: Path, validate: Validator | None = None) -> None:
        """Continue the run in folder `out`, or begin one there if there is none.

        `validate` scores the network; default: the recipe's validation set. Raises UserError if
        the folder holds a run of a different recipe or a damaged state, or if anything that the
        recipe names cannot be used.
        """
        self.recipe, self.out = recipe, out
        schedule = recipe.schedule
        self.accelerator = start_accelerator(
            recipe.precision, schedule.accumulate, recipe.deterministic
        )
        self._per_pass = samples_per_pass(
            schedule.batch, schedule.accumulate, self.accelerator.num_processes
        )
        state = self._shared_state()
        # A run under way no longer needs the checkpoint it started from.
        self.spec = ModelSpec(**json.loads(state["spec"])) if state else trained_spec(recipe)
        with self.accelerator.local_main_process_first():
            make_ready([*recipe.train, *recipe.validate_on])
        self._judged = {} if validate else validation_sets(recipe)
        self.validate = validate or validator(self._judged)
        self.data = training_set(recipe)
        with memory_advice():
            self.learner = Learner(recipe, self.spec, self.accelerator, state)
        self.schedule = self.learner.schedule
        self.best, self.best_epoch, self.validated_epoch, self.ended_epochs = -1.0, 0, 0, 0
        self._saved_step = -1
        self._losses = LossMean(self.learner.loss_names)
        if state:
            self.validated_epoch = self.best_epoch = state["validated_epoch"]
            if state.get("scored") == SCORED_NAMES:  # else its score is no measure for the next
                self.best, self.best_epoch = state["best"], state["best_epoch"]
            self.ended_epochs = state["ended_epochs"]
            self._losses = LossMean(
                self.learner.loss_names, state["loss_sums"], state["loss_count"]
            )

    def _shared_state(self) -> dict[str, Any] | None:
        """The state in `out` as the first process reads it: other nodes need not see the folder."""
        found = [read_state(self.out) if self.accelerator.is_main_process else None]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        state = found[0]
        if state is None:
            return None
        try:
            begun = Recipe.model_validate_json(state["recipe"])
        except ValidationError:
            raise foreign_state(self.out / STATE_FILE) from None
        changes = differences(essence(begun), essence(self.recipe))
        changes += changed_starts(begun, self.recipe, ModelSpec(**json.loads(state["spec"])))
        if changes:
            more = f", and {len(changes) - 1} more" if changes[1:] else ""
            raise UserError(
                f"{self.out} holds a run of a different recipe: {changes[0]}{more}; choose another "
                "--out or delete it"
            )
        if self.recipe.schedule.epochs < state["ended_epochs"]:
            raise UserError(
                f"{self.out} has done {state['ended_epochs']} epochs: set schedule.epochs to that "
                "or more, or choose another --out"
            )
        return state

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.learner.step

    @property
    def over(self) -> bool:
        """Whether every step and epoch is done, or patience is at its end."""
        if self._epoch_is_due or self._start_is_due:
            return False
        patience = self.recipe.schedule.patience_epochs
        waited = self.validated_epoch - self.best_epoch
        return self.step >= self.schedule.steps or (patience is not None and waited >= patience)

    def save(self) -> None:
        """Write everything that continuing the run needs, atomically, unless it is written."""
        if self.step == self._saved_step or not self.accelerator.is_main_process:
            return
        save_checkpoint(self.out / "last", self._spec_now(), self.learner.averaged())
        write_state(
            self.out,
            {
                "recipe": self.recipe.model_dump_json(exclude={"compress"}),
                "spec": json.dumps(asdict(self.spec)),
                **self.learner.state(),
                "scored": SCORED_NAMES,
                "best": self.best,
                "best_epoch": self.best_epoch,
                "validated_epoch": self.validated_epoch,
                "ended_epochs": self.ended_epochs,
                "loss_sums": self._losses.sums,
                "loss_count": self._losses.count,
            },
        )
        self._saved_step = self.step

    def _spec_now(self) -> ModelSpec:
        images = self.step * self.recipe.schedule.batch
        return progressed(self.spec, images, self.step / self.schedule.steps_per_epoch)

    def run(self) -> None:
        """Train to the end, unless the run is over already.

        The first Ctrl-C or SIGTERM saves after the step under way and raises Interrupted. Raises
        UserError if another process works in the folder, and with advice when the run diverges or
        memory runs out.
        """
        if self.over:
            return
        keep_memory()
        main = self.accelerator.is_main_process
        if main:
            print(self._summary())
        with (
            held(self.out, main),
            disk_errors_name(self.out),
            memory_advice(),
            StopRequest() as request,
            Progress(shown=main, console=Console()) as progress,
            RunLog(
                self.out if main else None, self.step - (self._epoch_is_due or self._start_is_due)
            ) as log,
        ):
            self._run(request, progress, log)

    def _summary(self) -> str:
        model, drawn = self.learner.model, self.data.parts
        return summary(
            self.recipe, self.spec, model, drawn, self._judged, self.accelerator, self.out
        )

    def _run(self, request: StopRequest, progress: Progress, log: RunLog) -> None:
        accelerator, decoded = self.accelerator, self.data.decoded
        part, parts = accelerator.local_process_index, local_processes()
        for done, total in decoded.fill(part=part, parts=parts):
            self._leave_if_alone(request)
            progress.count("decoding images", done, total)
        progress.done("decoding images")
        if parts > 1:
            decoded.share(of_this_machine)
        numbers = sample_numbers(
            self.step,
            self.schedule.steps,
            self.recipe.schedule.batch,
            accelerator.process_index,
            accelerator.num_processes,
        )
        pin = accelerator.device.type == "cuda"
        with closing(batches(self.data, numbers, self._per_pass, pin)) as stream:
            self._train(stream, request, progress, log)

    def _train(
        self, stream: Iterator[Batch], request: StopRequest, progress: Progress, log: RunLog
    ) -> None:
        schedule, accelerator = self.recipe.schedule, self.accelerator
        speed = Speed(schedule.batch)
        saved_s = time.monotonic()
        if self._start_is_due:
            self._judge_start(progress, log, request)
        if self._epoch_is_due:
            self._end_epoch(progress, log, request)
        while not self.over:
            losses = self.learner.train_step(take(stream, schedule.accumulate))
            self._losses.add(losses)
            speed.step()
            self._show(progress, log, losses, speed)
            if self._epoch_is_due:
                self.save()  # validation can take minutes, in which anything may happen
                self._end_epoch(progress, log, request)
            if stop := self._agreed(request.signal):
                self.save()
                progress.line(f"stopped at step {self.step}; the same command resumes")
                # A process that leaves makes the launcher end the others, also one that saves.
                accelerator.wait_for_everyone()
                raise Interrupted(stop)
            if time.monotonic() - saved_s >= 60 * self.recipe.checkpoint_minutes:
                self.save()
                saved_s = time.monotonic()
            speed.resume()
        self.save()
        if self.step < self.schedule.steps:
            progress.line(f"no better score since epoch {self.best_epoch}: stopped early")
        if self.recipe.start_from and not self.best_epoch:
            progress.line(
                f"no epoch scored better than {self.recipe.start_from}, where the run began: "
                f"{self.out / 'best'} is that network"
            )
        accelerator.wait_for_everyone()

    @property
    def _epoch_is_due(self) -> bool:
        """Whether an epoch's last step is done, but not what ends the epoch."""
        return self.step == (self.ended_epochs + 1) * self.schedule.steps_per_epoch

    @property
    def _start_is_due(self) -> bool:
        """Whether the run begins with a trained network that has no score yet."""
        return self.step == 0 and self.best < 0 and self.recipe.start_from is not None

    def _leave_if_alone(self, request: StopRequest) -> None:
        """Stop where nothing is left to save; several processes go on to where they agree."""
        if request.signal and self.accelerator.num_processes == 1:
            raise Interrupted(request.signal)

    def _agreed(self, own: int) -> int:
        """A signal that came to any process, 0 if none did: all must stop after the same step."""
        if self.accelerator.num_processes == 1:
            return own
        flag = torch.tensor(float(own > 0), device=self.accelerator.device)
        stopped = self.accelerator.reduce(flag, "sum").item() > 0
        return (own or signal.SIGTERM) if stopped else 0

    def _show(
        self, progress: Progress, log: RunLog, losses: dict[str, float], speed: Speed
    ) -> None:
        epoch = (self.step - 1) // self.schedule.steps_per_epoch + 1
        best = f" | best {self.best:.4f}" if self.best >= 0 else ""
        batch, epochs = self.recipe.schedule.batch, self.recipe.schedule.epochs
        progress.count(
            "training",
            self.step * batch,
            self.schedule.steps * batch,
            f"epoch {epoch}/{epochs} | {describe_losses(losses)}{best}",
            "img",
        )
        if self.step % LOGGED_EVERY_STEPS == 0:
            rate = self.learner.optimizer.param_groups[-1]["lr"]
            log.scalars(self.step, {f"train/{name}": value for name, value in losses.items()})
            log.scalars(self.step, {"train/rate": rate, "train/images_per_s": speed.images_per_s})

    def _end_epoch(self, progress: Progress, log: RunLog, request: StopRequest) -> None:
        """Validate if it is time, keep the best network, record."""
        epoch = self.step // self.schedule.steps_per_epoch
        schedule = self.recipe.schedule
        row: dict[str, Any] = {"epoch": epoch, "step": self.step, "loss": self._losses.mean()}
        text = describe_losses(row["loss"])
        self._losses = LossMean(self.learner.loss_names)
        if epoch % schedule.validate_every_epochs == 0 or epoch == schedule.epochs:
            row["metrics"], words = self._judge(epoch, progress, request)
            text += f" | {words}"
        log.epoch(row)
        self.ended_epochs, self._saved_step = epoch, -1
        progress.line(f"epoch {epoch}/{schedule.epochs} {text}")

    def _judge_start(self, progress: Progress, log: RunLog, request: StopRequest) -> None:
        """Score the network that the run begins with: what is kept is never worse."""
        metrics, words = self._judge(0, progress, request)
        log.epoch({"epoch": 0, "step": 0, "metrics": metrics})
        progress.line(f"{self.recipe.start_from}, where the run begins: {words}")

    def _judge(
        self, epoch: int, progress: Progress, request: StopRequest
    ) -> tuple[dict[str, Any], str]:
        """Validate the network, and keep it if it is the best so far; its metrics, and in words."""
        model = self.learner.averaged()

        def count(done: float, total: float | None) -> None:
            self._leave_if_alone(request)
            progress.count("validating", done, total, unit="img")

        metrics = self.validate(model, self.spec, count)
        progress.done("validating")
        current = score(metrics)
        self.validated_epoch = epoch
        if current > self.best:
            self.best, self.best_epoch = current, epoch
            if self.accelerator.is_main_process:
                save_checkpoint(self.out / "best", self._spec_now(), model)
        return metrics, f"{describe(metrics)} | score {current:.4f} best {self.best:.4f}"


def essence(recipe: Recipe) -> dict[str, Any]:
    """What must not change in the course of a run, but for the checkpoints that it began with.

    More epochs only make it longer.
    """
    content = recipe.model_dump(mode="json", exclude=MAY_CHANGE | dict.fromkeys(STARTS, True))
    del content["schedule"]["epochs"]
    if recipe.distillation:
        # Known by its weights: see `Teaching.load`.
        del content["distillation"]["teacher"]
    return content


def changed_starts(begun: Recipe, now: Recipe, spec: ModelSpec) -> list[str]:
    """In words, the first checkpoints in which two recipes of a run, of network `spec`, differ.

    One may lie elsewhere by now, or its name be spelt in another way: its weights are compared.
    """
    changes = []
    for name in STARTS:
        old, new = getattr(begun, name), getattr(now, name)
        if old == new:
            continue
        weights = new / WEIGHTS_FILE if old and new else None
        digest = sha256_hex(weights.read_bytes()) if weights and weights.is_file() else None
        if digest is None or not any(digest in line for line in spec.lineage):
            changes += differences(*({name: one and str(one)} for one in (old, new)))
    return changes

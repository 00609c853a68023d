"""The network in training: its optimiser, its average, and one step of both."""

import warnings
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from mtc_perception.core.tasks import TASKS
from offline_compress.data.batch import Batch
from offline_compress.export import normalise
from offline_compress.losses.task_losses import task_losses
from offline_compress.models.class_change import load_start
from offline_compress.models.pretrained import load_backbone
from offline_compress.models.registry import ModelSpec
from offline_compress.recipe.recipe import Recipe
from offline_compress.training.accelerator import average_norms, seed_pass
from offline_compress.training.advice import divergence
from offline_compress.training.average import MovingAverage
from offline_compress.training.running_figures import describe_losses
from offline_compress.training.step_schedule import StepSchedule, parameter_groups
from offline_compress.training.teaching import Teaching

GRADIENT_NORM = 10.0
MOST_SKIPPED_STEPS = 20
"""fp16 skips a step whose gradients overflow; this many in a row are no accident."""


class Learner:
    """A network, its optimiser and its average, the same in every process after every step."""

    def __init__(
        self,
        recipe: Recipe,
        spec: ModelSpec,
        accelerator: Accelerator,
        state: dict[str, Any] | None,
    ) -> None:
        """Continue from what `state` returned, or begin with the weights that the recipe names.

        Raises UserError if those do not load.
        """
        self._recipe, self._spec, self._accelerator = recipe, spec, accelerator
        self.schedule = StepSchedule.of(recipe.schedule)
        self.step, self._skipped = 0, 0
        torch.manual_seed(recipe.seed)
        self.model = spec.build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not state:
            self._load_start_weights()
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        with warnings.catch_warnings():
            # Accelerate still calls DistributedDataParallel's option by its old name.
            warnings.simplefilter("ignore", FutureWarning)
            self._parallel = accelerator.prepare_model(self.model)
            self._teaching = (
                Teaching(recipe.distillation, self.schedule.steps, spec, accelerator)
                if recipe.distillation
                else None
            )
        self.loss_names: tuple[str, ...] = TASKS
        groups = parameter_groups(self.model, recipe.schedule)
        if self._teaching:
            self.loss_names += self._teaching.names
            groups += self._teaching.parameter_groups(recipe.schedule)
        self.optimizer = accelerator.prepare_optimizer(torch.optim.AdamW(groups))
        self.average = MovingAverage(self.model, recipe.schedule.ema_decay)
        if state:
            self._load(state)

    def _load_start_weights(self) -> None:
        if self._recipe.backbone_weights:
            loaded = load_backbone(self.model, self._recipe.backbone_weights)
            self._accelerator.print(f"loaded {loaded}")
        if self._recipe.start_from:
            new = load_start(self.model, self._spec, self._recipe.start_from)
            if new:
                self._accelerator.print(f"classes that begin anew: {', '.join(new)}")

    def state(self) -> dict[str, Any]:
        """Everything that continuing needs: tensors, numbers and strings."""
        scaler = self._accelerator.scaler
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state,
            "scaler": scaler.state_dict() if scaler is not None else None,
            **({"teaching": self._teaching.state()} if self._teaching else {}),
        }

    def _load(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load(state["average"])
        if self._teaching:
            self._teaching.load(state["teaching"])
        if self._accelerator.scaler is not None and state["scaler"]:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    def averaged(self) -> nn.Module:
        """A copy of the network with the averaged weights, in eval mode."""
        model = self._spec.build()
        model.load_state_dict(self.average.state)
        return model.to(self._accelerator.device).eval()

    def train_step(self, passes: list[Batch]) -> dict[str, float]:
        """One optimiser step over the batches of its passes; the mean of every loss.

        Each pass of each process normalises its losses over its own samples; gradients are the mean
        over passes and processes. Raises UserError when losses or gradients are not finite.
        """
        accelerator = self._accelerator
        rate = self.schedule.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["peak_rate"]
        sums = torch.zeros(len(self.loss_names), device=accelerator.device)
        for number, batch in enumerate(passes, self.step * len(passes)):
            seed_pass(self._recipe.seed, number, accelerator.process_index)
            sums += self._forward_backward(batch.to(accelerator.device))
        means = accelerator.reduce(sums / len(passes), "mean")
        losses = dict(zip(self.loss_names, means.tolist(), strict=True))
        if not torch.isfinite(means).all():
            raise divergence(f"the loss is {describe_losses(losses)}", self.step)
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = accelerator.clip_grad_norm_(learning, GRADIENT_NORM)
        if accelerator.scaler is None and not torch.isfinite(norm):
            raise divergence(f"the gradients are {norm.item()}", self.step)
        self.optimizer.step()
        self._skipped = self._skipped + 1 if accelerator.optimizer_step_was_skipped else 0
        if self._skipped > MOST_SKIPPED_STEPS:
            raise divergence("the gradients do not fit into fp16", self.step)
        self.optimizer.zero_grad()
        average_norms(accelerator, self.model)
        self.average.update(self.model, self.step)
        self.step += 1
        return losses

    def _forward_backward(self, batch: Batch) -> torch.Tensor:
        """Add the gradients of one pass; its losses, in the order of `loss_names`."""
        teaching, images = self._teaching, normalise(batch.images)
        together = [self._parallel] + ([teaching.parallel] if teaching else [])
        with self._accelerator.accumulate(*together):
            output = self._parallel(images, batch.targets)
            losses = task_losses(output, batch.targets, self._recipe.mask_loss)
            parts = [losses.detection, losses.drivable, losses.lane]
            total = losses.total()
            if teaching:
                taught, added = teaching.losses(self.step, images, output, batch.targets)
                parts += taught
                total = total + added
            self._accelerator.backward(total)
        return torch.stack(parts).detach()

"""The teacher in a run: what it adds to the loss, and what is trained along with it."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.util.errors import UserError
from offline_compress.data.targets import Targets
from offline_compress.models.network import NetworkOutput
from offline_compress.models.registry import WEIGHTS_FILE, ModelSpec
from offline_compress.recipe.compression import Distillation
from offline_compress.recipe.parts import Schedule
from offline_compress.training.distillation import decayed, load_teacher


class Teaching:
    """A teacher in every process of a run."""

    def __init__(
        self, wanted: Distillation, steps: int, student: ModelSpec, accelerator: Accelerator
    ) -> None:
        """Load the teacher of a run of `steps` steps. Raises UserError if that fails."""
        self._wanted, self._steps = wanted, steps
        self._module = load_teacher(wanted.teacher, wanted, student)
        self.names = tuple(self._module.weights)
        """Of the losses that the teacher adds."""
        self._sha256 = _sha256(wanted.teacher)
        # The wrapper computes in the precision of the run and shares gradients, if there are any.
        trained = any(True for _ in self._module.projections.parameters())
        self.parallel = accelerator.prepare_model(self._module, evaluation_mode=not trained)

    def losses(
        self, step: int, images: torch.Tensor, output: NetworkOutput, targets: Targets
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What `names` are at a step, and what they add to its loss."""
        found = self.parallel(images, output, targets)
        factor = decayed(step, self._steps, self._wanted.decay)
        weights = self._module.weights
        total = torch.stack([factor * weights[name] * found[name] for name in self.names]).sum()
        return [found[name] for name in self.names], total

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, Any]]:
        """What an optimiser is to train along: the projections, if there are any."""
        parameters = list(self._module.projections.parameters())
        group = {
            "params": parameters,
            "weight_decay": schedule.weight_decay,
            "peak_rate": schedule.learning_rate,
        }
        return [group] if parameters else []

    def state(self) -> dict[str, Any]:
        """What continuing needs; the student's checkpoint does not hold it."""
        return {"teacher": self._sha256, "projections": self._module.projections.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned. Raises UserError if the teacher is another one."""
        if state["teacher"] != self._sha256:
            raise UserError(
                f"the run began with another teacher than {self._wanted.teacher} is now: put that "
                "one back, or choose another --out"
            )
        self._module.projections.load_state_dict(state["projections"])


def _sha256(checkpoint: Path) -> str:
    return sha256_hex((checkpoint / WEIGHTS_FILE).read_bytes())

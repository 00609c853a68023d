"""The teacher in a run: what its features add to the loss, and what is trained along with them."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.util.errors import UserError
from offline_compress.models.registry import WEIGHTS_FILE, ModelSpec
from offline_compress.recipe.compression import Distillation
from offline_compress.recipe.parts import Schedule
from offline_compress.training.distillation import decayed, feature_distillation


class Teaching:
    """Feature distillation in every process of a run."""

    def __init__(
        self, wanted: Distillation, steps: int, student: ModelSpec, accelerator: Accelerator
    ) -> None:
        """Load the teacher of a run of `steps` steps. Raises UserError if that fails."""
        self._wanted, self._steps = wanted, steps
        self._module = feature_distillation(wanted.teacher, student)
        self._sha256 = _sha256(wanted.teacher)
        # The wrapper computes in the precision of the run and shares gradients, if there are any.
        trained = any(True for _ in self._module.projections.parameters())
        self.parallel = accelerator.prepare_model(self._module, evaluation_mode=not trained)

    def weight(self, step: int) -> float:
        """Of the features' distance in the loss of a step."""
        return self._wanted.weight * decayed(step, self._steps, self._wanted.decay)

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

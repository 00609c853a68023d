"""Validation during training: every process scores its part, and all know the result."""

from collections.abc import Callable, Sequence
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

from mtc_perception.metrics.figures import HEADLINES, task_scores
from mtc_perception.metrics.tasks import PerceptionMetrics
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import Count
from offline_compress.data.labelled import labelled_split
from offline_compress.evaluation.accuracy import evaluate_engine
from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS
from offline_compress.evaluation.torch_engine import TorchEngine
from offline_compress.export import MAX_DETECTIONS
from offline_compress.models.registry import ModelSpec
from offline_compress.recipe.parts import DataSource

Validator = Callable[[nn.Module, ModelSpec, Count], dict[str, Any]]
"""Metric JSON of a network, the same in every process; all processes call it together."""


def validator(source: DataSource, classes: Sequence[str] | None = None) -> Validator:
    """Validation on a split of a data set at neutral thresholds.

    Raises LayoutError, and UserError for labels of something else than `classes`.
    """
    samples = labelled_split(source, "validate on", classes)

    def validate(model: nn.Module, spec: ModelSpec, count: Count) -> dict[str, Any]:
        state = PartialState()
        # Consecutive samples, so that merging the parts restores the order of a single process.
        bounds = [
            len(samples) * part // state.num_processes for part in range(state.num_processes + 1)
        ]
        part = samples[bounds[state.process_index] : bounds[state.process_index + 1]]

        def counted() -> Any:
            for done, sample in enumerate(part):
                count(done, len(part))
                yield sample

        engine = TorchEngine(model, spec.height, spec.width)
        found = evaluate_engine(engine, counted(), CHECKPOINT_THRESHOLDS, MAX_DETECTIONS).metrics
        parts: list[PerceptionMetrics] = gather_object([found])
        whole = parts[0]
        for other in parts[1:]:
            whole.merge(other)
        return whole.to_json()

    return validate


def score(metrics: dict[str, Any]) -> float:
    """One number to pick the best epoch by: the mean over the labelled tasks' headline metrics.

    Raises UserError if no task is labelled.
    """
    scores = task_scores(metrics).values()
    if not scores:
        raise UserError("the validation set has no labels for any task")
    return sum(scores) / len(scores)


def describe(metrics: dict[str, Any]) -> str:
    """The headline metrics of the labelled tasks as one line."""
    return " ".join(
        f"{figure.title} {value:.4f}"
        for figure in HEADLINES
        if (value := figure.of(metrics)) is not None
    )

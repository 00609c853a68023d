"""Validation during training: every process scores its part, and all know the result."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

from mtc_perception.datasets.layout import Sample
from mtc_perception.metrics.figures import HEADLINES, task_scores
from mtc_perception.metrics.sets import each_set, mean_over_sets
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import Count
from offline_compress.data.labelled import labelled_sets
from offline_compress.evaluation.accuracy import evaluate_engine
from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS
from offline_compress.evaluation.torch_engine import TorchEngine
from offline_compress.export import MAX_DETECTIONS
from offline_compress.models.registry import ModelSpec
from offline_compress.recipe.recipe import Recipe

Validator = Callable[[nn.Module, ModelSpec, Count], dict[str, Any]]
"""Metric JSON of a network (of several sets `mean_over_sets`), the same in every process; all
processes call it together."""


def validation_sets(recipe: Recipe) -> dict[str, list[Sample]]:
    """The samples of each set that a recipe validates on, by its name.

    Raises LayoutError, and UserError for labels that no class takes.
    """
    return labelled_sets(recipe.validate_on, "validate on", recipe.class_map)


def validator(sets: Mapping[str, Sequence[Sample]]) -> Validator:
    """Validation on data sets at neutral thresholds."""
    images = sum(map(len, sets.values()))

    def validate(model: nn.Module, spec: ModelSpec, count: Count) -> dict[str, Any]:
        state = PartialState()
        engine = TorchEngine(model, spec.height, spec.width)
        done = 0

        def own_part(samples: Sequence[Sample]) -> Iterator[Sample]:
            # Consecutive samples, so that merging the parts restores the order of one process.
            first, end = (
                len(samples) * part // state.num_processes
                for part in (state.process_index, state.process_index + 1)
            )
            nonlocal done
            for sample in samples[first:end]:
                count(done * state.num_processes, images)
                yield sample
                done += 1

        found = {
            name: evaluate_engine(
                engine,
                own_part(samples),
                CHECKPOINT_THRESHOLDS,
                MAX_DETECTIONS,
                spec.fit,
                classes=spec.class_map,
            ).metrics
            for name, samples in sets.items()
        }
        first, *others = gather_object([found])
        for name, whole in first.items():
            for other in others:
                whole.merge(other[name])
        return mean_over_sets({name: whole.to_json() for name, whole in first.items()})

    return validate


def score(metrics: dict[str, Any]) -> float:
    """One number to pick the best epoch by: the mean over sets of the mean over the tasks there.

    Raises UserError if no task of any set is labelled.
    """
    scores = [_mean_score(one) for one in each_set(metrics).values() if task_scores(one)]
    if not scores:
        raise UserError("the validation set has no labels for any task")
    return sum(scores) / len(scores)


def describe(metrics: dict[str, Any]) -> str:
    """The headline metrics of the labelled tasks as one line, and the score of each of several
    sets."""
    words = [
        f"{figure.title} {value:.4f}"
        for figure in HEADLINES
        if (value := figure.of(metrics)) is not None
    ]
    sets = [
        f"{name} {_mean_score(one):.4f}"
        for name, one in metrics.get("sets", {}).items()
        if task_scores(one)
    ]
    return " ".join(words) + (f" | {', '.join(sets)}" if sets else "")


def _mean_score(metrics: Mapping[str, Any]) -> float:
    """Over the tasks of one set, of which one at least has a score."""
    scores = task_scores(metrics).values()
    return sum(scores) / len(scores)

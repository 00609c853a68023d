"""Calibration images: a fixed, representative part of a recipe's training data, as deployed."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from accelerate import PartialState

from mtc_perception.core.tasks import TASKS
from mtc_perception.datasets.layout import Sample
from offline_compress.data.labelled import evenly, source_samples
from offline_compress.data.labelled_batches import LabelledBatches
from offline_compress.importance.scorer import require_labels
from offline_compress.ready import make_ready
from offline_compress.recipe.compression import Scoring
from offline_compress.recipe.recipe import Recipe

_Tasks = tuple[bool, bool, bool]


def calibration_batches(recipe: Recipe, scoring: Scoring) -> LabelledBatches:
    """`scoring.images` training images (fewer if there are no more), whole and not augmented.

    What does not fill a batch is left out, unless it is the only one: Taylor terms of smaller
    batches are larger, those of single images most.

    Raises UserError if none of them is labelled for one of the tasks, and LayoutError for a data
    set that is missing or broken.
    """
    samples = calibration_samples(recipe, scoring.images)
    samples = samples[: len(samples) // scoring.batch * scoring.batch] or samples
    require_labels(np.sum([_labelled(sample) for sample in samples] or [(False,) * 3], 0), TASKS)
    of_masks = {
        sample.image_path
        for source in recipe.train
        if source.boxes_of_masks
        for sample in source_samples(source)
    }
    return LabelledBatches(samples, recipe.input, scoring.batch, recipe.class_map, of_masks)


def calibration_samples(recipe: Recipe, images: int) -> list[Sample]:
    """`images` labelled training samples (fewer if there are no more), always the same ones.

    Each source has its weight's share, within it each set of labelled tasks has its share, and
    any part of the list is mixed like the whole. Raises LayoutError.
    """
    with PartialState().local_main_process_first():
        make_ready(recipe.train)
    strata: list[list[Sample]] = []
    weights: list[float] = []
    for source in recipe.train:
        samples = [s for s in source_samples(source) if s.labelled]
        kinds = {_labelled(sample): None for sample in samples}
        for kind in kinds:
            strata.append([sample for sample in samples if _labelled(sample) == kind])
            weights.append(source.weight * len(strata[-1]) / len(samples))
    turns = apportion(weights, [len(stratum) for stratum in strata], images)
    counts = Counter(turns)
    picks = {number: iter(_spread(strata[number], counts[number])) for number in counts}
    return [next(picks[number]) for number in turns]


def apportion(weights: Sequence[float], sizes: Sequence[int], seats: int) -> list[int]:
    """Which stratum is next, `seats` times or until all are used up.

    Sainte-Lague's method: proportional to `weights` at every length, except that each stratum has
    its first turn before any has its second.
    """
    given = [0] * len(sizes)
    turns: list[int] = []
    while len(turns) < min(seats, sum(sizes)):
        open_strata = [number for number, size in enumerate(sizes) if given[number] < size]
        chosen = max(
            open_strata,
            key=lambda number: (given[number] == 0, weights[number] / (2 * given[number] + 1)),
        )
        given[chosen] += 1
        turns.append(chosen)
    return turns


def _labelled(sample: Sample) -> _Tasks:
    """For each task whether the sample is labelled for it."""
    return sample.boxes is not None, sample.drivable is not None, sample.lane is not None


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` samples at even distances, shuffled: neighbours are often frames of one drive."""
    chosen = evenly(samples, count)
    return [chosen[k] for k in np.random.default_rng(0).permutation(count)]

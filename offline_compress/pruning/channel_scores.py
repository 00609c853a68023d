"""What the steps of a pruning score channels with, in all processes of a launch together."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from mtc_perception.util.progress import NamedCount
from offline_compress.channels.proof import proven_groups
from offline_compress.importance import ChannelScores, load, measure, save
from offline_compress.pruning.problem import PruningProblem

SCORES_FILE = "scores.safetensors"
SCORING_ADVICE = "memory ran out; score in smaller batches (of a recipe: compress.scoring.batch)"


def measured_scores(
    problem: PruningProblem,
    model: nn.Module,
    batches: Sequence[Any],
    folder: Path,
    accelerator: Accelerator,
    count: NamedCount,
) -> ChannelScores:
    """Scores of a network's channels, from `folder` if they are there, else measured and written.

    All processes call this together.
    """
    path = folder / SCORES_FILE
    if not exists_at_first(path, accelerator):
        groups = proven_groups(model, problem.description)
        model.to(accelerator.device)
        scores = measure(
            model, groups, batches, problem.description, accelerator, partial(count, "scoring")
        )
        model.to("cpu")
        if accelerator.is_main_process:
            save(path, scores)
        accelerator.wait_for_everyone()
    return load(path)


def exists_at_first(path: Path, accelerator: Accelerator) -> bool:
    """Whether the first of all processes, which call this together, sees a file."""
    found = [accelerator.is_main_process and path.exists()]
    broadcast_object_list(found)
    return found[0]

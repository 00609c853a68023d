"""`python -m bench.criteria RECIPE CHECKPOINT`: how much the criteria disagree about channels.

Before anything is cut: which of the channels each criterion would keep if half of them went, and
the order in which it puts them. The criteria are scored on one half of the calibration images, and
the reference on the other one too: what differs by no more than that is chance.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bench.common import ends_in_one_line, write_result
from mtc_perception.core.bundle import sha256_hex
from mtc_perception.util.progress import Progress
from offline_compress.channels.groups import channel_groups
from offline_compress.importance import criterion_scores, measure
from offline_compress.importance.calibration import calibration_batches
from offline_compress.importance.multi_task import description_of
from offline_compress.models.registry import WEIGHTS_FILE, load_checkpoint, load_spec
from offline_compress.recipe.compression import Criterion, Scoring
from offline_compress.recipe.recipe import Recipe, load_recipe

NAME = "criteria"
REFERENCE, REPEATED = "tci_max", "tci_max on the other images"
CRITERIA: dict[str, tuple[Criterion, float]] = {
    "tci_max": ("tci_max", 0.0),
    "tci_max, conflict 0.3": ("tci_max", 0.3),
    "tci_max, conflict 1": ("tci_max", 1.0),
    "tci_sum": ("tci_sum", 0.0),
    "joint": ("joint", 0.0),
    "l2": ("l2", 0.0),
    "random": ("random", 0.0),
}
"""Criterion and weight of the conflict."""


def disagreement(values: Mapping[str, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """For every [C] of channel values beside the reference's: the share of the better half that
    both have, and the rank correlation (Spearman)."""
    reference = values[REFERENCE]
    return {
        name: {
            "kept_in_common": len(_better_half(own) & _better_half(reference)) / (len(own) // 2),
            "rank_correlation": float(spearmanr(own, reference).statistic),
        }
        for name, own in values.items()
        if name != REFERENCE
    }


def _better_half(values: NDArray[np.float64]) -> set[int]:
    """The numbers of the channels."""
    return set(np.argsort(values, kind="stable")[-(len(values) // 2) :].tolist())


def criteria_result(recipe: Recipe, checkpoint: Path, images: int) -> dict[str, Any]:
    """What `results/criteria.json` holds. Raises UserError."""
    spec, model = load_spec(checkpoint), load_checkpoint(checkpoint)
    description = description_of(model)
    groups = channel_groups(model, description)
    batches = list(calibration_batches(recipe, Scoring(images=images)))
    with Progress(alone=True) as progress:
        # Every batch is mixed like the whole, so that every second one is, too.
        halves = [
            measure(
                model,
                groups,
                batches[half::2],
                description,
                count=progress.counter(f"scoring, half {half + 1}"),
            )
            for half in (0, 1)
        ]
    scores = halves[0]

    def values(number: int, criterion: Criterion, conflict: float) -> NDArray[np.float64]:
        found = criterion_scores(halves[number], groups, model, criterion, conflict, seed=0)
        return np.concatenate(list(found.values()))

    by_criterion = {name: values(0, *how) for name, how in CRITERIA.items()}
    by_criterion[REPEATED] = values(1, *CRITERIA[REFERENCE])
    prunable = [group.name for group in groups if not group.protected]
    conflict = np.concatenate([scores.conflict[name].mean(0) for name in prunable])
    return {
        "network": spec.name,
        "sha256": sha256_hex((checkpoint / WEIGHTS_FILE).read_bytes()),
        "images": scores.images,
        "channels": len(conflict),
        "conflict_percentiles": _percentiles(conflict),
        "importance_percentiles": _percentiles(by_criterion[REFERENCE]),
        "criteria": disagreement(by_criterion),
    }


def _percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    return {f"p{part}": float(np.percentile(values, part)) for part in (5, 50, 95)}


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m bench.criteria", description=__doc__)
    parser.add_argument("recipe", type=Path, help="whose training images are scored on")
    parser.add_argument("checkpoint", type=Path, help="a trained network")
    parser.add_argument("--images", type=int, default=128, help="of both halves (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    content = criteria_result(load_recipe(options.recipe), options.checkpoint, options.images)
    print(json.dumps(content["criteria"], indent=2))
    print(f"wrote {write_result(options.results, NAME, content)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

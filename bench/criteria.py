"""`python -m bench.criteria RUN TEACHER`: how much the criteria disagree about channels.

Before anything is trained: from the scores of the first step of a pruning, which of the channels
each criterion would keep if half of them went, and the order in which it puts them.
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

from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.provenance import provenance
from offline_compress.channels.groups import channel_groups
from offline_compress.importance import criterion_scores, load
from offline_compress.importance.multi_task import description_of
from offline_compress.models.registry import load_checkpoint
from offline_compress.recipe.compression import Criterion

REFERENCE = "tci_max"
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


def criteria_result(scores_path: Path, teacher: Path) -> dict[str, Any]:
    """What `results/criteria.json` holds. Raises UserError."""
    scores, model = load(scores_path), load_checkpoint(teacher)
    groups = channel_groups(model, description_of(model))
    values = {
        name: np.concatenate(
            list(criterion_scores(scores, groups, model, criterion, conflict, seed=0).values())
        )
        for name, (criterion, conflict) in CRITERIA.items()
    }
    prunable = [group.name for group in groups if not group.protected]
    conflict = np.concatenate([scores.conflict[name].mean(0) for name in prunable])
    return {
        "teacher": teacher.parent.name,
        "images": scores.images,
        "channels": len(conflict),
        "conflict_percentiles": _percentiles(conflict),
        "importance_percentiles": _percentiles(values[REFERENCE]),
        "criteria": disagreement(values),
        **provenance(),
    }


def _percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    return {f"p{part}": float(np.percentile(values, part)) for part in (5, 50, 95)}


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m bench.criteria", description=__doc__)
    parser.add_argument("run", type=Path, help="a run of `mtc-compress run`")
    parser.add_argument("teacher", type=Path, help="the checkpoint that it pruned")
    parser.add_argument("--json", type=Path, default=Path("results/criteria.json"))
    options = parser.parse_args(arguments)
    try:
        scores = options.run / "prune" / "step_1" / "scores.safetensors"
        result = criteria_result(scores, options.teacher)
        write_text_atomic(options.json, json.dumps(result, indent=2) + "\n")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result["criteria"], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

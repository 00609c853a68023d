"""`python -m bench.method`: write the tables of docs/method.md anew from results/*.json."""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.criteria import REFERENCE
from bench.study import students_values, study_values
from bench.tables import Result, read_results, render, rewrite, with_numbers
from mtc_perception.core.tasks import TASKS
from mtc_perception.metrics.figures import SCORED, task_scores
from offline_compress.importance.criteria import task_shares
from offline_compress.importance.scores import pair_names

PAGE = Path("docs/method.md")
CHANNELS = ("A", "B", "C", "D")
"""Of the example: four channels with made-up importances, conflicts and costs."""
IMPORTANCE = np.array(
    [[80.0, 2.0, 1.0, 37.0], [0.08, 0.02, 0.01, 0.09], [0.010, 0.300, 0.010, 0.080]]
)
"""[3, 4] by task: detection's are hundreds of times the others', as its loss is."""
CONFLICT = np.array([0.0, 0.1, 0.0, 0.6])
COST_MS = np.array([0.02, 0.02, 0.01, 0.06])
CONFLICT_WEIGHT = 0.3


def with_evidence(page: str, results: Path) -> str:
    """The page with its example and its tables, from the committed results alone."""
    found = read_results(results, ("compression_mtc_nano", "criteria", "conflict"))
    page = with_numbers(page, example(found["compression_mtc_nano"]), "bench.method", "example")
    page = with_numbers(page, agreement(found["criteria"]), "bench.method", "criteria")
    page = with_numbers(page, null_test(found["conflict"]), "bench.method", "conflict")
    studied = render("method_study.md.j2", **study_values(results))
    page = with_numbers(page, studied, "bench.method", "study")
    students = render("method_students.md.j2", **students_values(results))
    return with_numbers(page, students, "bench.method", "students")


def agreement(criteria: Result) -> str:
    """The table of how far criteria agree, as Markdown."""
    return render("method_criteria.md.j2", criteria=criteria, reference=REFERENCE)


def null_test(conflict: Result) -> str:
    """The table of what the conflict measures, as Markdown."""
    return render("method_conflict.md.j2", conflict=conflict, pairs=pair_names(TASKS), tasks=TASKS)


def example(compression: Result) -> str:
    """The worked example: four channels are ranked, and one compression is followed."""
    shares = task_shares({"group": IMPORTANCE})["group"]
    worth = shares.max(0) * (1 - CONFLICT_WEIGHT * CONFLICT)
    channels = [
        {
            "name": name,
            "raw": IMPORTANCE[:, i],
            "shares": shares[:, i],
            "conflict": CONFLICT[i],
            "worth": worth[i],
            "cost_ms": COST_MS[i],
            "per_ms": worth[i] / COST_MS[i],
            "goes": _place(worth / COST_MS, i),
            "goes_by_sum": _place(IMPORTANCE.sum(0), i),
        }
        for i, name in enumerate(CHANNELS)
    ]
    [row] = compression["rows"]
    scores = {name: task_scores(row[name]) for name in ("teacher", "student")}
    return render(
        "method_example.md.j2",
        channels=channels,
        tasks=TASKS,
        weight=CONFLICT_WEIGHT,
        row=row,
        scores=scores | {"pruned": row["pruned"]},
        scored=SCORED,
    )


def _place(values: NDArray[np.float64], index: int) -> int:
    """Place of one value, counted from the least, 1."""
    return int((values < values[index]).sum()) + 1


def main() -> int:
    """Rewrite the page in the working directory; 2 if a result is missing."""
    return rewrite(PAGE, with_evidence)


if __name__ == "__main__":
    sys.exit(main())

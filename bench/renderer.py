"""`python -m bench.renderer`: write the table of docs/data.md anew from results/renderer.json."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.tables import Result, read_results, render, rewrite, with_numbers
from mtc_perception.metrics.figures import value_of
from offline_compress.report.compression_rows import Spread

PAGE = Path("docs/data.md")
FIGURES = {
    "recall": "detection.recall",
    "mAP50": "detection.map50",
    "mAP50-95": "detection.map50_95",
    "drivable mIoU": "drivable.miou",
    # Networks this young find no lane at the threshold of the others.
    "lane IoU": "lane.best_iou",
}
"""Columns of the table, and where each stands in a run."""
ARMS = ("decorated", "bare")


def with_table(page: str, results: Path) -> str:
    """The page with its table, from the committed result alone."""
    [found] = read_results(results, ("renderer",)).values()
    table = render("renderer.md.j2", figures=list(FIGURES), rows=list(_rows(found["rows"])))
    return with_numbers(page, table, "bench.renderer")


def _rows(runs: list[Result]) -> Iterator[dict[str, Any]]:
    """Both arms of each setting over their seeds, and their differences seed by seed."""
    for setting in dict.fromkeys(run["setting"] for run in runs):
        arms = {
            arm: [_points(run) for run in runs if (run["arm"], run["setting"]) == (arm, setting)]
            for arm in ARMS
        }
        arms["difference"] = [
            [one - other for one, other in zip(*seed, strict=True)]
            for seed in zip(*arms.values(), strict=True)
        ]
        for roads, seeds in arms.items():
            spreads = [asdict(Spread.of(values)) for values in zip(*seeds, strict=True)]
            yield {"setting": setting, "roads": roads, "spreads": spreads}


def _points(run: Result) -> list[float]:
    """The figures of one run in percent; they are in every run."""
    found = [value_of(run, name) for name in FIGURES.values()]
    return [100 * value for value in found if value is not None]


def main() -> int:
    """Rewrite the page in the working directory; 2 if a result is missing."""
    return rewrite(PAGE, with_table)


if __name__ == "__main__":
    sys.exit(main())

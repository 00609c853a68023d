"""Several data sets as one result: every figure is the mean over the sets, each of equal weight."""

from collections.abc import Mapping
from typing import Any

from mtc_perception.metrics.figures import ACCURACY, nested

Metrics = Mapping[str, Any]
"""Metric JSON."""


def mean_over_sets(sets: Mapping[str, Metrics]) -> dict[str, Any]:
    """Metric JSON of the mean over `sets` by name, which stand in its `sets`.

    Of each figure the mean over the sets that are labelled for its task and define it. A single
    set's metric JSON is its own mean.
    """
    if len(sets) == 1:
        return dict(next(iter(sets.values())))
    known = [
        figure
        for figure in ACCURACY.values()
        if any(figure.key in one.get(figure.task, {}) for one in sets.values())
    ]

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        **nested(
            known,
            lambda figure: mean(
                [value for one in sets.values() if (value := figure.of(one)) is not None]
            ),
        ),
        "sets": dict(sets),
    }


def each_set(metrics: Metrics) -> Mapping[str, Metrics]:
    """The metric JSON of every set of a `mean_over_sets`, by name; of a single one itself."""
    found: Mapping[str, Metrics] = metrics.get("sets", {"": metrics})
    return found

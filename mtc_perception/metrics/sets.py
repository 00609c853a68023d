"""Several data sets as one result: every figure is the mean over the sets, each of equal weight."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtc_perception.metrics.figures import ACCURACY, Figure, nested

Metrics = Mapping[str, Any]
"""Metric JSON."""


def mean_over_sets(sets: Mapping[str, Metrics]) -> dict[str, Any]:
    """Metric JSON of the mean over `sets` by name, which stand in its `sets`.

    Of each figure the mean over the sets that are labelled for its task and define it. A single
    set's metric JSON is its own mean.
    """
    if len(sets) == 1:
        return dict(next(iter(sets.values())))
    result = _mean(list(sets.values()))
    by_class = [one.get("detection", {}).get("classes", {}) for one in sets.values()]
    if names := dict.fromkeys(name for one in by_class for name in one):
        result["detection"]["classes"] = {
            name: _mean([{"detection": one[name]} for one in by_class if name in one])["detection"]
            for name in names
        }
    return {**result, "sets": dict(sets)}


def _mean(sets: Sequence[Metrics]) -> dict[str, Any]:
    """Every figure that any of the sets has, as the mean of those that define it."""
    known = [
        figure
        for figure in ACCURACY.values()
        if any(figure.key in one.get(figure.task, {}) for one in sets)
    ]

    def mean(figure: Figure) -> float | None:
        values = [value for one in sets if (value := figure.of(one)) is not None]
        return sum(values) / len(values) if values else None

    return nested(known, mean)


def each_set(metrics: Metrics) -> Mapping[str, Metrics]:
    """The metric JSON of every set of a `mean_over_sets`, by name; of a single one itself."""
    found: Mapping[str, Metrics] = metrics.get("sets", {"": metrics})
    return found

"""The tasks, and the figures by which networks are compared."""

from collections.abc import Mapping
from typing import Any

from mtc_perception.core.perception import TASKS

Headline = tuple[str, str]
"""Task and figure of a metric JSON."""
HEADLINES: tuple[Headline, ...] = (
    ("detection", "recall"),
    ("detection", "map50"),
    ("drivable", "miou"),
    ("lane", "iou"),
)
"""What a smaller network must not lose; the best epoch is picked by them, too."""


def figure(metrics: Mapping[str, Any], headline: Headline) -> float | None:
    """A figure of a metric JSON; None if the task has no labels or it is undefined."""
    task, name = headline
    value = metrics.get(task, {}).get(name)
    return None if value is None else float(value)


def task_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Mean of the headlines of every task for which all of them are defined, 0..1."""
    scores = {}
    for task in TASKS:
        values = [figure(metrics, headline) for headline in HEADLINES if headline[0] == task]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            scores[task] = sum(known) / len(known)
    return scores

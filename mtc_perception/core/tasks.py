"""The tasks of networks, by name. A network may lack some of them."""

from collections.abc import Collection, Mapping
from typing import Literal, get_args

Task = Literal["detection", "drivable", "lane"]
TASKS: tuple[Task, ...] = get_args(Task)
"""In the order of everything that is kept per task."""
OUTPUTS: Mapping[Task, tuple[str, ...]] = {
    "detection": ("boxes", "scores", "labels"),
    "drivable": ("drivable",),
    "lane": ("lane",),
}
"""Outputs of a bundle's graph."""
THRESHOLDS: Mapping[Task, str] = {"detection": "score", "drivable": "drivable", "lane": "lane"}
"""Fields of `core.bundle.Thresholds`."""


def outputs_of(tasks: Collection[Task]) -> tuple[str, ...]:
    """Outputs of the graph of a network with these tasks."""
    return tuple(name for task in TASKS if task in tasks for name in OUTPUTS[task])

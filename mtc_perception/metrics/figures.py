"""The figures of results: where each stands, what people call it, and which way is better."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mtc_perception.core.tasks import TASKS

Value = TypeVar("Value")

TASK_LABELS = {"detection": "objects", "drivable": "drivable area", "lane": "lane lines"}
CURVE_LABELS = {
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "miou": "mIoU",
    "iou": "IoU",
    "accuracy": "accuracy",
    "iou_dilated8": "IoU, 8 px label",
    "accuracy_dilated8": "accuracy, 8 px label",
}
"""Of what is known at every threshold, by its name in `sweep`."""
_LABELS = CURVE_LABELS | {
    "map50": "mAP50",
    "map50_95": "mAP50-95",
    "best_f1": "best F1",
}
_ENDINGS = {
    "_at_threshold": " at the score threshold",
    "_at_best_f1": " at best F1",
    "_pooled": ", pooled",
}
COUNT_LABELS = {
    "frames_in": "frames in",
    "frames_processed": "processed",
    "frames_dropped": "dropped",
    "frames_stale": "stale",
    "frames_malformed": "malformed",
    "frames_unreadable": "unreadable",
}
"""Numbers of images."""
STAGE_LABELS = {
    "receive": "receive (stamp to callback)",
    "wait": "wait for the engine",
    "read": "read the image",
    "preprocess": "preprocess",
    "inference": "inference",
    "decode": "decode",
    "publish": "publish",
    "published": "stamp to published",
    "end_to_end": "end to end",
    "jitter": "change from image to image",
}
"""Of `latency_ms`."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of accuracy of one task: a fraction in 0..1, more is better."""

    task: str
    key: str
    """In its task's part of a metric JSON."""

    @property
    def name(self) -> str:
        """Where it is in a result, as `detection.recall`."""
        return f"{self.task}.{self.key}"

    @property
    def label(self) -> str:
        """For people, beside the name of its task."""
        for ending, words in _ENDINGS.items():
            if self.key.endswith(ending):
                return _LABELS[self.key.removesuffix(ending)] + words
        return _LABELS[self.key]

    @property
    def title(self) -> str:
        """For people, alone: `detection recall`."""
        return f"{self.task} {self.label}"

    def of(self, result: Mapping[str, Any]) -> float | None:
        """Its value in a metric JSON; None if the task has no labels or it is undefined."""
        return value_of(result, self.name)


_KEYS = {
    "detection": (
        *("recall", "map50", "map50_95"),
        *("recall_at_threshold", "precision_at_threshold", "f1_at_threshold"),
        *("best_f1", "recall_at_best_f1", "precision_at_best_f1"),
    ),
    "drivable": ("miou", "iou", "miou_pooled", "iou_pooled"),
    "lane": (
        *("iou", "accuracy", "iou_pooled", "accuracy_pooled"),
        *("iou_dilated8", "accuracy_dilated8", "iou_dilated8_pooled", "accuracy_dilated8_pooled"),
    ),
}
ACCURACY = {
    figure.name: figure for task in TASKS for key in _KEYS[task] for figure in [Figure(task, key)]
}
"""All figures of accuracy by name, in the order they are shown."""


def figures(*names: str) -> tuple[Figure, ...]:
    """Those of ACCURACY with these names."""
    return tuple(ACCURACY[name] for name in names)


HEADLINES = figures(
    *("detection.map50", "detection.map50_95"),
    *("detection.recall_at_best_f1", "detection.precision_at_best_f1"),
    *("drivable.miou", "lane.iou"),
)
"""Those that every table of networks shows. `recall` is none of them: with every detection counted,
however unsure, it is near 1 of any network."""
SCORED = figures(
    "detection.map50", "detection.map50_95", "detection.best_f1", "drivable.miou", "lane.iou"
)
"""Those that networks are judged by: a task's score is the mean of its own, the guard of a pruning
looks at each. The best F1 stands for recall and precision there, of which one rises as the other
falls where the best threshold moves."""
BRIEF = figures(
    *("detection.map50", "detection.map50_95", "detection.best_f1"),
    *("detection.recall_at_best_f1", "detection.precision_at_best_f1", "detection.recall"),
    *("drivable.miou", "drivable.iou", "lane.iou", "lane.accuracy"),
)
"""Those that rows of compressions keep."""
CLASS_FIGURES = tuple(figure for figure in HEADLINES if figure.task == "detection")
"""Those that tables show of each class, where there are several."""
OF_CLASSES = "detection.classes."
"""What the dotted names of their figures begin with."""
IMAGE_LABELS = {
    task: f"{TASK_LABELS[task]}, {CURVE_LABELS[key]}"
    for task, key in (("detection", "f1"), ("drivable", "miou"), ("lane", "iou"))
}
"""The one figure per task that single images are ranked by (`PerceptionMetrics.headlines`)."""


def value_of(result: Mapping[str, Any], name: str) -> float | None:
    """A number of a result by its dotted name; None if there is none."""
    value: Any = result
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def figure_of(name: str) -> tuple[Figure, str]:
    """The figure of accuracy with a dotted name, and the class that it is of, empty for none."""
    if not name.startswith(OF_CLASSES):
        return ACCURACY[name], ""
    owner, _, key = name.removeprefix(OF_CLASSES).rpartition(".")
    return ACCURACY[f"detection.{key}"], owner


def unit_of(name: str) -> str:
    """Unit of a figure of a result by its dotted name; empty for fractions and numbers."""
    return "ms" if name.startswith("latency_ms.") else ""


def lower_is_better(name: str) -> bool:
    """Whether less of a figure, by its dotted name, is better: of time."""
    return unit_of(name) == "ms"


def nested(
    figures: Iterable[Figure], value: Callable[[Figure], Value]
) -> dict[str, dict[str, Value]]:
    """A value for each figure, by task and key as in a metric JSON."""
    found: dict[str, dict[str, Value]] = {}
    for figure in figures:
        found.setdefault(figure.task, {})[figure.key] = value(figure)
    return found


def judged(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The `SCORED` figures by name, of every task for which all of them are defined."""
    found: dict[str, float] = {}
    for task in TASKS:
        values = {figure.name: figure.of(metrics) for figure in SCORED if figure.task == task}
        known = {name: value for name, value in values.items() if value is not None}
        if len(known) == len(values):
            found |= known
    return found


def judged_by_class(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The `SCORED` figures of every class, as `detection.classes.car.map50`, where there are
    several and they are defined."""
    detection = metrics.get("detection", {})
    return {
        f"{OF_CLASSES}{name}.{figure.key}": value
        for name, one in detection.get("classes", {}).items()
        for figure in SCORED
        if figure.task == "detection" and (value := one.get(figure.key)) is not None
    }


def means_by_task(judged: Mapping[str, float]) -> dict[str, float]:
    """The score of every task, 0..1, from `judged` figures; those of classes do not count."""
    by_task: dict[str, list[float]] = {}
    for name, value in judged.items():
        if name in ACCURACY:
            by_task.setdefault(ACCURACY[name].task, []).append(value)
    return {task: sum(values) / len(values) for task, values in by_task.items()}


def task_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Mean of the `SCORED` figures of every task for which all of them are defined, 0..1."""
    return means_by_task(judged(metrics))

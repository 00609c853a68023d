"""The charts of an evaluation: lines over 0..1, as data that the page's template draws in SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offline_compress.evaluate import Evaluation

WIDTH, HEIGHT = 330, 200
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_NAMES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "miou": "mIoU",
    "iou": "IoU",
    "accuracy": "accuracy",
    "iou_dilated8": "IoU, 8 px label",
    "accuracy_dilated8": "accuracy, 8 px label",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: pieces of it, `x,y x,y ...` each, with gaps where it is undefined."""

    name: str
    color: str
    pieces: list[str]


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at a threshold."""

    name: str
    x: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A line chart over 0..1 in both directions."""

    title: str
    x_title: str
    lines: list[Line]
    marks: list[Mark]


def charts(evaluation: Evaluation, result: dict[str, Any]) -> list[Chart]:
    """Precision over recall, and every figure over its task's threshold."""
    found = []
    metric = evaluation.metrics.detection
    if metric.objects:
        precision = metric.compute().precision
        recall = np.linspace(0.0, 1.0, len(precision))
        found.append(
            Chart("vehicles at IoU 0.5", "recall", [_line("precision", 0, recall, precision)], [])
        )
    for task, sweep in result["sweep"].items():
        lines = [
            _line(_NAMES[name], index, sweep["threshold"], sweep[name])
            for index, name in enumerate(name for name in _NAMES if name in sweep)
        ]
        marks = [Mark("used", result[task]["threshold"] * WIDTH)]
        title = {"detection": "vehicles", "drivable": "drivable area", "lane": "lane lines"}[task]
        x_title = "score threshold" if task == "detection" else "threshold"
        found.append(Chart(f"{title} over threshold", x_title, lines, marks))
    return found


def _line(name: str, index: int, x: Sequence[float] | Any, y: Sequence[float | None] | Any) -> Line:
    pieces: list[list[str]] = [[]]
    for a, b in zip(x, y, strict=True):
        if b is not None:
            pieces[-1].append(f"{float(a) * WIDTH:.1f},{(1 - float(b)) * HEIGHT:.1f}")
        elif pieces[-1]:
            pieces.append([])
    return Line(name, _COLORS[index], [" ".join(piece) for piece in pieces if piece])

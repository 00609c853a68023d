"""The charts of an evaluation, as data that the page's template draws."""

from typing import Any

import numpy as np

from mtc_perception.metrics.figures import CURVE_LABELS, TASK_LABELS
from mtc_perception.pages.line_chart import WIDTH, Chart, Mark, line
from offline_compress.evaluation.accuracy import Evaluation


def charts(evaluation: Evaluation, result: dict[str, Any]) -> list[Chart]:
    """Precision over recall, and every figure over its task's threshold."""
    found = []
    metric = evaluation.metrics.detection
    if metric.objects:
        precision = metric.compute().precision
        recall = np.linspace(0.0, 1.0, len(precision))
        found.append(
            Chart("objects at IoU 0.5", "recall", [line("precision", 0, recall, precision)], [])
        )
    for task, sweep in result["sweep"].items():
        lines = [
            line(CURVE_LABELS[name], index, sweep["threshold"], sweep[name])
            for index, name in enumerate(name for name in CURVE_LABELS if name in sweep)
        ]
        marks = [Mark("used", result[task]["threshold"] * WIDTH)]
        x_title = "score threshold" if task == "detection" else "threshold"
        found.append(Chart(f"{TASK_LABELS[task]} over threshold", x_title, lines, marks))
    return found

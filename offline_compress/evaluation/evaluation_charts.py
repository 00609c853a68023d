"""The charts of an evaluation, as data that the page's template draws."""

from typing import Any

import numpy as np

from mtc_perception.pages.line_chart import WIDTH, Chart, Mark, line
from offline_compress.evaluation.evaluation import Evaluation

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


def charts(evaluation: Evaluation, result: dict[str, Any]) -> list[Chart]:
    """Precision over recall, and every figure over its task's threshold."""
    found = []
    metric = evaluation.metrics.detection
    if metric.objects:
        precision = metric.compute().precision
        recall = np.linspace(0.0, 1.0, len(precision))
        found.append(
            Chart("vehicles at IoU 0.5", "recall", [line("precision", 0, recall, precision)], [])
        )
    for task, sweep in result["sweep"].items():
        lines = [
            line(_NAMES[name], index, sweep["threshold"], sweep[name])
            for index, name in enumerate(name for name in _NAMES if name in sweep)
        ]
        marks = [Mark("used", result[task]["threshold"] * WIDTH)]
        title = {"detection": "vehicles", "drivable": "drivable area", "lane": "lane lines"}[task]
        x_title = "score threshold" if task == "detection" else "threshold"
        found.append(Chart(f"{title} over threshold", x_title, lines, marks))
    return found

"""The evaluation as a table for the terminal and as one self-contained HTML page with pictures."""

import base64
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import numpy.typing as npt
from rich.table import Table

from mtc_perception.images import SourceImage
from mtc_perception.layout import Sample, read_image, read_truth
from mtc_perception.metrics import GroundTruth
from mtc_perception.overlay import draw_overlay
from mtc_perception.perception import Perception, StageTimes
from offline_compress.evaluate import HEADLINES, Evaluation, infer, ranked
from offline_compress.subject import Subject

PICTURES_PER_RANK = 3
PICTURE_WIDTH_PX = 640
_PLOT_WIDTH, _PLOT_HEIGHT = 300, 180
_COLORS = ("#0072b2", "#d55e00")
_LABELS = {
    "recall": "recall",
    "map50": "mAP50",
    "map50_95": "mAP50-95",
    "miou": "mIoU",
    "iou": "IoU",
    "accuracy": "accuracy",
    "miou_pooled": "mIoU, pooled",
    "iou_pooled": "IoU, pooled",
    "accuracy_pooled": "accuracy, pooled",
    "iou_dilated8": "IoU, 8 px label",
    "accuracy_dilated8": "accuracy, 8 px label",
    "iou_dilated8_pooled": "IoU, 8 px label, pooled",
    "accuracy_dilated8_pooled": "accuracy, 8 px label, pooled",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame, prediction beside label."""

    title: str
    jpeg_base64: str


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart, `points` as SVG wants them."""

    name: str
    color: str
    points: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A line chart over 0..1 in both directions."""

    title: str
    x_title: str
    series: list[Series]


def figure_rows(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Task, name and value of every figure of a result JSON, as text."""
    for task in HEADLINES:
        for name, value in result.get(task, {}).items():
            if name in _LABELS:
                yield task, _LABELS[name], "undefined" if value is None else f"{value:.4f}"
    yield "network", "parameters", f"{result['params'] / 1e6:.3f} M"
    yield "network", "multiply-accumulates", f"{result['gmacs']:.2f} G"
    yield "network", "latency, batch 1, median", f"{result['latency_ms']:.1f} ms"


def result_table(result: dict[str, Any]) -> Table:
    """The figures of a result JSON for the terminal."""
    table = Table()
    table.add_column("task")
    table.add_column("figure")
    table.add_column("value", justify="right")
    last = ""
    for task, name, value in figure_rows(result):
        if last not in ("", task):
            table.add_section()
        table.add_row(task if task != last else "", name, value)
        last = task
    return table


def title_of(result: dict[str, Any]) -> str:
    """What was evaluated on what, in one line."""
    model, data, engine = result["model"], result["data"], result["engine"]
    return (
        f"{model['name']} ({model['kind']}, {engine['name']} {engine['precision']}) on "
        f"{data['name']} {data['split']}, {data['images']} images"
    )


def write_report(
    path: Path, subject: Subject, evaluation: Evaluation, result: dict[str, Any]
) -> None:
    """Write the HTML page atomically. The chosen frames are run once more to be drawn."""
    rankings = []
    for task, figure in HEADLINES.items():
        worst, best = ranked(evaluation.frames, task, PICTURES_PER_RANK)
        for rank, indices in (("worst", worst), ("best", best)):
            pictures = [
                Picture(
                    f"{evaluation.frames[index].sample.stem}: "
                    f"{_LABELS[figure]} {evaluation.frames[index].figures[task]:.3f}",
                    draw_sample(subject, evaluation.frames[index].sample),
                )
                for index in indices
            ]
            if pictures:
                rankings.append((f"{task}: {rank}", pictures))
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        _PAGE
    )
    text = page.render(
        title=title_of(result),
        rows=list(figure_rows(result)),
        charts=charts(evaluation, result),
        rankings=rankings,
        thresholds=subject.thresholds,
        result=result,
        width=_PLOT_WIDTH,
        height=_PLOT_HEIGHT,
    )
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def charts(evaluation: Evaluation, result: dict[str, Any]) -> list[Chart]:
    """Mask figures over thresholds, and detection precision over recall."""
    found = []
    for task, sweep in result["sweep"].items():
        series = [
            _series(_LABELS[name], index, sweep["threshold"], sweep[name])
            for index, name in enumerate(sweep["best_threshold"])
        ]
        found.append(Chart(f"{task} over threshold", "threshold", series))
    detection = evaluation.metrics.detection
    if detection.objects:
        curve = detection.compute().curve
        recall = np.linspace(0.0, 1.0, len(curve.precision))
        series = [
            _series("precision", 0, recall, curve.precision),
            _series("F1", 1, recall, curve.f1),
        ]
        found.append(Chart("detection at IoU 0.5", "recall", series))
    return found


def draw_sample(subject: Subject, sample: Sample) -> str:
    """Prediction and label of one sample side by side, as a base64 JPEG."""
    pixels = read_image(sample.image_path)
    frame = infer(subject.engine, SourceImage(pixels, "rgb"), subject.max_detections)
    truth = read_truth(sample, pixels.shape[:2])
    ignore_class = len(subject.classes)
    pair = np.hstack(
        [
            draw_overlay(pixels, frame.perception(subject.thresholds), subject.classes),
            draw_overlay(
                pixels,
                _as_perception(truth, pixels.shape[0], pixels.shape[1], ignore_class),
                [*subject.classes, "ignored"],
            ),
        ]
    )
    scale = min(1.0, 2 * PICTURE_WIDTH_PX / pair.shape[1])
    if scale < 1.0:
        pair = cv2.resize(pair, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(pair, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85]
    )
    return base64.b64encode(jpeg.tobytes()).decode("ascii")


def _as_perception(truth: GroundTruth, height: int, width: int, ignore_class: int) -> Perception:
    boxes = np.zeros((0, 4), np.float32) if truth.boxes is None else truth.boxes
    ignore = np.zeros(len(boxes), np.bool_) if truth.ignore is None else truth.ignore

    def mask(label: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.uint8]:
        known = np.zeros((height, width), np.bool_) if label is None else label
        return known.astype(np.uint8) * np.uint8(255)

    return Perception(
        boxes=boxes.astype(np.float32),
        scores=np.ones(len(boxes), np.float32),
        labels=np.where(ignore, ignore_class, 0).astype(np.int32),
        drivable=mask(truth.drivable),
        lane=mask(truth.lane),
        times=StageTimes(0.0, 0.0, 0.0),
    )


def _series(
    name: str, index: int, x: Sequence[float] | npt.NDArray[Any], y: Sequence[float | None] | Any
) -> Series:
    points = " ".join(
        f"{float(a) * _PLOT_WIDTH:.1f},{(1 - float(b)) * _PLOT_HEIGHT:.1f}"
        for a, b in zip(x, y, strict=True)
        if b is not None
    )
    return Series(name, _COLORS[index % len(_COLORS)], points)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 82rem; padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { border-bottom: 1px solid #8884; padding: .15rem .9rem .15rem 0; text-align: left; }
td.value { font-variant-numeric: tabular-nums; text-align: right; }
.charts, .pictures { display: flex; flex-wrap: wrap; gap: 1.5rem; }
figure { margin: 0; }
.pictures figure { flex: 1 1 30rem; max-width: 80rem; }
img { max-width: 100%; }
svg { overflow: visible; margin: .5rem 2rem 1.5rem; }
svg text { fill: currentColor; font-size: 11px; }
polyline { fill: none; stroke-width: 2; }
.frame { fill: none; stroke: currentColor; stroke-opacity: .4; }
small { opacity: .75; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<table>
{% for task, name, value in rows %}
<tr><td>{{ task }}</td><td>{{ name }}</td><td class="value">{{ value }}</td></tr>
{% endfor %}
</table>
<p><small>Per-image averages unless marked pooled. Mask thresholds: drivable
{{ thresholds.drivable }}, lane {{ thresholds.lane }}; boxes are drawn from score
{{ thresholds.score }}, scored from 0.001.</small></p>
<div class="charts">
{% for chart in charts %}
<figure>
<figcaption>{{ chart.title }}</figcaption>
<svg width="{{ width }}" height="{{ height }}" viewBox="0 0 {{ width }} {{ height }}">
<rect class="frame" width="{{ width }}" height="{{ height }}"></rect>
{% for tick in (0, 0.5, 1) %}
<text x="-6" y="{{ (1 - tick) * height + 4 }}" text-anchor="end">{{ tick }}</text>
<text x="{{ tick * width }}" y="{{ height + 14 }}" text-anchor="middle">{{ tick }}</text>
{% endfor %}
<text x="{{ width / 2 }}" y="{{ height + 28 }}" text-anchor="middle">{{ chart.x_title }}</text>
{% for line in chart.series %}
<polyline points="{{ line.points }}" stroke="{{ line.color }}"></polyline>
<text x="8" y="{{ 16 + 14 * loop.index0 }}" style="fill: {{ line.color }}">{{ line.name }}</text>
{% endfor %}
</svg>
</figure>
{% endfor %}
</div>
{% for title, pictures in rankings %}
<h2>{{ title }}</h2>
<div class="pictures">
{% for picture in pictures %}
<figure>
<img alt="{{ picture.title }}" src="data:image/jpeg;base64,{{ picture.jpeg_base64 }}">
<figcaption>{{ picture.title }} <small>(left: network, right: labels)</small></figcaption>
</figure>
{% endfor %}
</div>
{% endfor %}
<h2>Origin</h2>
<table>
<tr><td>model</td><td>{{ result.model | tojson }}</td></tr>
<tr><td>engine</td><td>{{ result.engine.why }}</td></tr>
<tr><td>machine</td><td>{{ result.machine | tojson }}</td></tr>
<tr><td>versions</td><td>{{ result.versions | tojson }}</td></tr>
<tr><td>commit</td><td>{{ result.commit }}</td></tr>
<tr><td>command</td><td><code>{{ result.command }}</code></td></tr>
<tr><td>time</td><td>{{ result.time }}</td></tr>
</table>
</body>
</html>
"""

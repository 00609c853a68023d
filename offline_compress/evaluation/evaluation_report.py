"""The evaluation as tables for the terminal and as one self-contained HTML page with pictures."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.table import Table

from mtc_perception.core.overlay import color_key, draw_overlay, draw_truth
from mtc_perception.core.tasks import TASKS
from mtc_perception.core.truth import GroundTruth
from mtc_perception.datasets.layout import known_truth, read_image
from mtc_perception.metrics.figures import (
    ACCURACY,
    CLASS_FIGURES,
    CURVE_LABELS,
    HEADLINES,
    IMAGE_LABELS,
    TASK_LABELS,
)
from mtc_perception.metrics.tasks import RECOMMENDED
from mtc_perception.pages import render
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import Count
from offline_compress.evaluation.accuracy import Evaluation, FrameScore, infer, ranked, read_for
from offline_compress.evaluation.evaluation_charts import charts
from offline_compress.evaluation.subject import Subject

PICTURES_PER_RANK = 3
PICTURE_WIDTH_PX = 640
_TEMPLATE = "evaluation_page.html.j2"
_CONDITIONS = (*HEADLINES, ACCURACY["lane.accuracy"])
"""Figures of the images of one condition."""


@dataclass(frozen=True, slots=True)
class FramePair:
    """One frame, prediction beside label."""

    title: str
    jpeg_base64: str


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text in sections of rows; a first cell is not repeated in the rows below it."""

    title: str
    columns: list[str]
    sections: list[list[list[str]]]


def tables(result: dict[str, Any]) -> list[TextTable]:
    """The figures of a result JSON, its thresholds, and its conditions where there are any."""
    sections = [
        _named(TASK_LABELS[task], _figures(task, result)) for task in TASKS if task in result
    ]
    speed = result["speed"]
    latency = speed["latency_ms"]
    network = [
        ("parameters", f"{result['params'] / 1e6:.3f} M"),
        ("multiply-accumulates", f"{result['gmacs']:.2f} G"),
        ("latency at batch 1, p50", f"{latency['p50']:.2f} ms"),
        ("latency at batch 1, p95", f"{latency['p95']:.2f} ms"),
        ("images per second, mean", f"{speed['fps']:.1f}"),
    ]
    sections.append(_named("network", network))
    found = [TextTable("figures", ["", "figure", "value"], sections)]
    if classes := result.get("detection", {}).get("classes"):
        columns = ["class", *(figure.label for figure in CLASS_FIGURES)]
        rows = [
            [name, *(_text(figure.of({"detection": one})) for figure in CLASS_FIGURES)]
            for name, one in classes.items()
        ]
        found.append(TextTable("classes", columns, [rows]))
    if "sets" in result:
        columns = ["data set", "images", *(one.title for one in HEADLINES)]
        rows = [_of_set(name, one, one["data"]["images"]) for name, one in result["sets"].items()]
        mean = _of_set("mean", result, result["data"]["images"])
        found.append(TextTable("data sets", columns, [rows, [mean]]))
    if result["sweep"]:
        columns = ["threshold of", "used", "best", "by", "value"]
        chosen_on = ["used: chosen on", result["asked"]["thresholds_chosen_on"], "", "", ""]
        rows = [*_thresholds(result), chosen_on]
        found.append(TextTable("thresholds", columns, [rows]))
    if "conditions" in result:
        columns = ["condition", "", "images", *(one.title for one in _CONDITIONS)]
        found.append(TextTable("conditions", columns, list(_conditions(result["conditions"]))))
    return found


def result_tables(result: dict[str, Any]) -> Iterator[Table]:
    """The same for the terminal."""
    for one in tables(result):
        table = Table()
        for index, name in enumerate(one.columns):
            table.add_column(name, justify="left" if index < 2 else "right")
        for section in one.sections:
            for row in section:
                table.add_row(*row)
            table.add_section()
        yield table


def title_of(result: dict[str, Any]) -> str:
    """What was evaluated on what, in one line."""
    model, data, engine = result["model"], result["data"], result["engine"]
    return (
        f"{model['name']} ({model['kind']}, {engine['name']} {engine['precision']}) on "
        f"{data['name']} {data['split']}, {data['images']} images"
    )


def write_report(
    path: Path,
    subject: Subject,
    evaluation: Evaluation,
    result: dict[str, Any],
    count: Count = lambda _done, _total: None,
) -> None:
    """Write the HTML page atomically. The chosen frames are run once more to be drawn.

    `count` is told pictures drawn and pictures in all.
    """
    chosen = []
    for task in TASKS:
        worst, best = ranked(evaluation.frames, task, PICTURES_PER_RANK)
        chosen += [(task, "worst", worst), (task, "best", best)]
    total = sum(len(indices) for *_, indices in chosen)
    rankings, done = [], 0
    for task, rank, indices in chosen:
        pictures = []
        for index in indices:
            frame = evaluation.frames[index]
            pictures.append(FramePair(_caption(task, frame), draw_sample(subject, frame)))
            done += 1
            count(done, total)
        if pictures:
            rankings.append((f"{TASK_LABELS[task]}: {rank}", pictures))
    text = render(
        __package__ or "",
        _TEMPLATE,
        title=title_of(result),
        cards=list(_cards(result)),
        tables={table.title: table for table in tables(result)},
        charts=charts(evaluation, result),
        rankings=rankings,
        thresholds=subject.thresholds,
        max_detections=subject.max_detections,
        result=result,
        colors=color_key(subject.class_map.names),
    )
    write_text_atomic(path, text)


def draw_sample(subject: Subject, frame: FrameScore) -> str:
    """Prediction and label of one sample side by side, as a base64 JPEG."""
    pixels = read_image(frame.sample.image_path)
    image = read_for(subject.engine, frame.sample.image_path, subject.fit)
    answer = infer(subject.engine, image, subject.max_detections, subject.fit)
    truth, _ = known_truth(frame.sample, pixels.shape[:2])
    pair = np.hstack(
        [
            draw_overlay(pixels, answer.perception(subject.thresholds), subject.class_map.names),
            draw_truth(pixels, truth or GroundTruth(), subject.class_map),
        ]
    )
    return jpeg_base64(pair)


def jpeg_base64(pair: npt.NDArray[np.uint8]) -> str:
    """A pair of RGB pictures, [H, W, 3], as a JPEG no wider than two of PICTURE_WIDTH_PX."""
    scale = min(1.0, 2 * PICTURE_WIDTH_PX / pair.shape[1])
    if scale < 1.0:
        pair = cv2.resize(pair, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(pair, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85]
    )
    return base64.b64encode(jpeg.tobytes()).decode("ascii")


def _named(name: str, rows: Iterable[tuple[str, ...]]) -> list[list[str]]:
    return [["" if index else name, *row] for index, row in enumerate(rows)]


def _figures(task: str, result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for figure in ACCURACY.values():
        if figure.task == task and figure.key in result[task]:
            yield figure.label, _text(figure.of(result))


def _thresholds(result: dict[str, Any]) -> Iterator[list[str]]:
    for name, (task, figure) in RECOMMENDED.items():
        sweep = result["sweep"].get(task)
        if sweep is None:
            continue
        best = sweep["best_threshold"].get(figure)
        if task == "detection":
            value = result[task]["best_f1"]
        else:
            value = None if best is None else sweep[figure][sweep["threshold"].index(best)]
        used = f"{result['asked']['thresholds'][name]:g}"
        best_text = "undefined" if best is None else f"{best:g}"
        yield [name, used, best_text, CURVE_LABELS[figure], _text(value)]


def _of_set(name: str, result: Mapping[str, Any], images: int) -> list[str]:
    figures = [_text(one.of(result)) if one.task in result else "" for one in HEADLINES]
    return [name, str(images), *figures]


def _conditions(conditions: dict[str, Any]) -> Iterator[list[list[str]]]:
    for attribute, values in conditions.items():
        rows = [
            (
                value,
                str(max((figures[task]["images"] for task in figures), default=0)),
                *(_text(one.of(figures)) if one.task in figures else "" for one in _CONDITIONS),
            )
            for value, figures in values.items()
        ]
        yield _named(attribute, rows)


def _cards(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for figure in HEADLINES:
        if figure.task in result:
            value = figure.of(result)
            yield figure.title, "undefined" if value is None else f"{value:.3f}"
    yield "latency, p50", f"{result['latency_ms']:.1f} ms"
    yield "parameters", f"{result['params'] / 1e6:.2f} M"


def _caption(task: str, frame: FrameScore) -> str:
    about = ", ".join(frame.sample.attributes.values())
    value = f"{frame.sample.stem}: {IMAGE_LABELS[task]} {frame.figures[task]:.3f}"
    return f"{value} ({about})" if about else value


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"

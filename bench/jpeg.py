"""What decoding JPEGs at reduced scale takes and costs: time, and accuracy on labelled images."""

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from bench.common import tracked, write_result
from mtc_perception.core.bundle import Bundle
from mtc_perception.core.images import decode_compressed
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.perception import SCORE_FLOOR, decode_boxes
from mtc_perception.core.truth import GroundTruth
from mtc_perception.datasets.layout import read_image, read_split, read_truth
from mtc_perception.metrics.figures import ACCURACY, BRIEF, Figure
from mtc_perception.metrics.tasks import PerceptionMetrics
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver
from mtc_perception.util.memory import keep_memory

SPLIT = "val"
HEIGHT, WIDTH, QUALITY = 720, 1280, 90
ROUNDS = 5
"""Decodings of every image each way."""
MOST_POINTS = 0.1
"""Target: what no figure of `BRIEF` may lose, in points of 0..100."""


@dataclass(slots=True)
class Way:
    """One way to make and decode an image, and what came of it."""

    metrics: PerceptionMetrics
    fit: tuple[int, int] | None = None
    quality: int = QUALITY
    decode_ms: list[float] = field(default_factory=list)
    scale_ms: list[float] = field(default_factory=list)
    """From the decoded pixels to the network's input."""


def bench_jpeg(bundle: Bundle, data: Path, results: Path, console: Console) -> bool:
    """Measure, print and write `jpeg.json`; whether the target is met. Raises UserError.

    The images of the split are scaled to 1280x720 with their labels, and the ways take turns. What
    the figures change by if the JPEGs are a little better says how much a change means.
    """
    thresholds, most = bundle.manifest.thresholds, bundle.manifest.max_detections

    def metrics() -> PerceptionMetrics:
        return PerceptionMetrics(thresholds.drivable, thresholds.lane, most, thresholds.score)

    keep_memory()
    samples = [sample for sample in read_split(data, SPLIT) if sample.labelled]
    with open_perceiver(Selection(bundle.path)) as perceiver:
        ways = {
            "full": Way(metrics()),
            "reduced": Way(metrics(), perceiver.input_size),
            f"quality {QUALITY + 1}": Way(metrics(), quality=QUALITY + 1),
        }
        for sample in tracked(samples, "JPEG", console):
            pixels = read_image(sample.image_path)
            truth = _large_truth(read_truth(sample, pixels.shape[:2]), *pixels.shape[:2])
            jpegs = {way.quality: _large_jpeg(pixels, way.quality) for way in ways.values()}
            for way in [*ways.values()] * ROUNDS:
                _time(way, jpegs[way.quality], perceiver)
            for way in ways.values():
                _score(way, jpegs[way.quality], truth, perceiver)
        device = perceiver.engine.device
    content = {
        "bundle": bundle.path.name,
        "device": device,
        "images": len(samples),
        "size": f"{WIDTH}x{HEIGHT}",
        "quality": QUALITY,
        "accuracy": {name: way.metrics.to_json() for name, way in ways.items()},
        "decode_ms": {name: _median(way.decode_ms) for name, way in ways.items()},
        "scale_ms": {name: _median(way.scale_ms) for name, way in ways.items()},
    }
    _print(content, console)
    console.print(f"wrote {write_result(results, 'jpeg', content)}\n", highlight=False)
    changes = [_points(content["accuracy"], figure, "reduced") for figure in BRIEF]
    return all(change is None or change >= -MOST_POINTS for change in changes)


def _large_jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> bytes:
    large = cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    bgr = cv2.cvtColor(large, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _large_truth(truth: GroundTruth, height: int, width: int) -> GroundTruth:
    """Labels of an image of that size, in its large one."""
    masks = (
        None
        if mask is None
        else cv2.resize(
            mask.view(np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST
        ).astype(np.bool_)
        for mask in (truth.drivable, truth.lane)
    )
    scale = np.array([WIDTH / width, HEIGHT / height] * 2, np.float32)
    boxes = None if truth.boxes is None else truth.boxes * scale
    return GroundTruth(boxes, truth.ignore, *masks)


def _time(way: Way, content: bytes, perceiver: Perceiver) -> None:
    """What one thread does between the file and the network's input."""
    begin = time.thread_time()
    image = decode_compressed(content, way.fit)
    decoded = time.thread_time()
    letterbox = Letterbox.fit(image.height, image.width, *perceiver.input_size)
    perceiver.engine.prepare(image, letterbox)
    way.scale_ms.append((time.thread_time() - decoded) * 1e3)
    way.decode_ms.append((decoded - begin) * 1e3)


def _score(way: Way, content: bytes, truth: GroundTruth, perceiver: Perceiver) -> None:
    engine = perceiver.engine
    image = decode_compressed(content, way.fit)
    letterbox = Letterbox.fit(image.height, image.width, *perceiver.input_size)
    engine.prepare(image, letterbox)
    engine.start()
    outputs = engine.wait()
    most = perceiver.bundle.manifest.max_detections
    boxes, scores, _ = decode_boxes(outputs, letterbox, SCORE_FLOOR, most)
    masks = (letterbox.mask_to_source(one[0]) for one in (outputs.drivable, outputs.lane))
    way.metrics.update(truth, boxes, scores, *masks)


def _points(accuracy: dict[str, Any], figure: Figure, way: str) -> float | None:
    """By how many points a figure is above that of a full decoding."""
    before, after = figure.of(accuracy["full"]), figure.of(accuracy[way])
    return None if before is None or after is None else 100 * (after - before)


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 3)


def _print(content: dict[str, Any], console: Console) -> None:
    accuracy = content["accuracy"]
    table = Table(title=f"{content['images']} JPEGs of {content['size']}", title_justify="left")
    table.add_column("")
    for name in accuracy:
        table.add_column(name, justify="right")
    for figure in ACCURACY.values():
        full, *others = accuracy
        changes = [_points(accuracy, figure, way) for way in others]
        value = figure.of(accuracy[full])
        if value is not None:
            cells = ["" if change is None else f"{change:+.2f}" for change in changes]
            table.add_row(figure.name, f"{100 * value:.2f}", *cells)
    for stage in ("decode_ms", "scale_ms"):
        full_ms, *others_ms = content[stage].values()
        ratios = [f"x {value / full_ms:.2f}" for value in others_ms]
        table.add_row(stage, f"{full_ms:.2f}", *ratios)
    console.print(table)

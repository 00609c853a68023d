"""What decoding JPEGs at reduced scale takes and costs: time, and accuracy on labelled images."""

import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from bench.common import identity, tracked, write_result
from mtc_perception.core.bundle import Bundle
from mtc_perception.core.images import decode_compressed
from mtc_perception.core.input_size import InputSize
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.perception import SCORE_FLOOR, decode_boxes
from mtc_perception.core.truth import GroundTruth
from mtc_perception.datasets.layout import read_image, read_split, read_truth
from mtc_perception.metrics.figures import ACCURACY, SCORED
from mtc_perception.metrics.tasks import PerceptionMetrics
from mtc_perception.runtime.perceiver import Perceiver, Selection, open_perceiver
from mtc_perception.util.memory import keep_memory

SPLIT = "val"
HEIGHT, WIDTH = 720, 1280
QUALITIES = range(86, 95)
"""Of the JPEGs. One figure moves with a single box or pixel; the mean over several hardly does."""
MOST_POINTS = 0.1
"""Target: what no figure of `SCORED` may lose, in points of 0..100."""


@dataclass(slots=True)
class Way:
    """One way to decode, and what came of it."""

    fit: InputSize | None
    metrics: dict[int, PerceptionMetrics]
    """By quality."""
    decode_ms: list[float] = field(default_factory=list)
    scale_ms: list[float] = field(default_factory=list)
    """From the decoded pixels to the network's input."""


def bench_jpeg(bundle: Bundle, data: Path, results: Path, console: Console) -> bool:
    """Measure, print and write `jpeg.json`; whether the target is met. Raises UserError.

    The images of the split are scaled to 1280x720 with their labels, and both ways take turns.
    """
    thresholds, most = bundle.manifest.thresholds, bundle.manifest.max_detections

    def way(fit: InputSize | None) -> Way:
        fresh = PerceptionMetrics(thresholds.drivable, thresholds.lane, most, thresholds.score)
        return Way(fit, {quality: fresh.fresh() for quality in QUALITIES})

    keep_memory()
    samples = [sample for sample in read_split(data, SPLIT) if sample.labelled]
    with open_perceiver(Selection(bundle.path)) as perceiver:
        ways = {"full": way(None), "reduced": way(perceiver.input_size)}
        for sample in tracked(samples, "JPEG", console):
            pixels = read_image(sample.image_path)
            truth = _large_truth(read_truth(sample, pixels.shape[:2]), *pixels.shape[:2])
            for quality in QUALITIES:
                content = _large_jpeg(pixels, quality)
                for one in ways.values():
                    _measure(one, quality, content, truth, perceiver)
        engine = perceiver.engine
        running = {"engine": engine.name, "precision": engine.precision, "device": engine.device}
    values = {name: _values(one) for name, one in ways.items()}
    summary: dict[str, Any] = {
        **identity(bundle),
        **running,
        "images": len(samples),
        "size": f"{WIDTH}x{HEIGHT}",
        "qualities": [*QUALITIES],
        "accuracy": {
            name: {
                "full": statistics.mean(full),
                "reduced": statistics.mean(values["reduced"][name]),
                "spread": statistics.stdev(full),
            }
            for name, full in values["full"].items()
        },
        "decode_ms": {name: _median(one.decode_ms) for name, one in ways.items()},
        "scale_ms": {name: _median(one.scale_ms) for name, one in ways.items()},
    }
    _print(summary, console)
    console.print(f"wrote {write_result(results, 'jpeg', summary)}\n", highlight=False)
    found = [summary["accuracy"][figure.name] for figure in SCORED if figure.name in values["full"]]
    return all(100 * (one["reduced"] - one["full"]) >= -MOST_POINTS for one in found)


def _large_jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> bytes:
    large = cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    bgr = cv2.cvtColor(large, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _large_truth(truth: GroundTruth, height: int, width: int) -> GroundTruth:
    """Labels of an image of that size, in its large one."""
    scale = np.array([WIDTH / width, HEIGHT / height] * 2, np.float32)
    return replace(
        truth,
        boxes=None if truth.boxes is None else truth.boxes * scale,
        drivable=_large_mask(truth.drivable),
        lane=_large_mask(truth.lane),
    )


def _large_mask(mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_] | None:
    if mask is None:
        return None
    size = (WIDTH, HEIGHT)
    return cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(np.bool_)


def _measure(
    way: Way, quality: int, content: bytes, truth: GroundTruth, perceiver: Perceiver
) -> None:
    """Decode one image, scale it and count what the network makes of it.

    Times are those of the CPU, since one thread does it and others may still be at it.
    """
    engine = perceiver.engine
    begin = time.thread_time()
    image = decode_compressed(content, way.fit)
    decoded = time.thread_time()
    letterbox = Letterbox.fit(image.height, image.width, *perceiver.input_size)
    engine.prepare(image, letterbox)
    way.scale_ms.append((time.thread_time() - decoded) * 1e3)
    way.decode_ms.append((decoded - begin) * 1e3)
    engine.start()
    outputs = engine.wait()
    most = perceiver.bundle.manifest.max_detections
    boxes, scores, _ = decode_boxes(outputs, letterbox, SCORE_FLOOR, most)
    masks = (
        None if one is None else letterbox.mask_to_source(one[0])
        for one in (outputs.drivable, outputs.lane)
    )
    way.metrics[quality].update(truth, boxes, scores, *masks)


def _values(way: Way) -> dict[str, list[float]]:
    """Each figure of accuracy that is known, at every quality."""
    found = [metrics.to_json() for metrics in way.metrics.values()]
    values = {name: [figure.of(one) for one in found] for name, figure in ACCURACY.items()}
    return {
        name: [value for value in one if value is not None]
        for name, one in values.items()
        if None not in one
    }


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 3)


def _print(content: dict[str, Any], console: Console) -> None:
    title = f"{content['images']} JPEGs of {content['size']}; change and spread in points"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("full", "reduced", "spread over qualities"):
        table.add_column(name, justify="right")
    for name, one in content["accuracy"].items():
        change, spread = 100 * (one["reduced"] - one["full"]), 100 * one["spread"]
        table.add_row(name, f"{100 * one['full']:.2f}", f"{change:+.2f}", f"{spread:.2f}")
    for stage in ("decode_ms", "scale_ms"):
        full, reduced = content[stage].values()
        table.add_row(stage, f"{full:.2f}", f"x {reduced / full:.2f}", "")
    console.print(table)

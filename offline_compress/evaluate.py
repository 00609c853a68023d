"""Evaluation of checkpoints and bundles: one path from image file to metric JSON.

The frames go through the vehicle's own letterbox, engine and decoding, and are scored in source
pixels. Masks are kept as probabilities until they are scored, so that every threshold is known;
at the given ones they are the very masks that `Perceiver` returns.
"""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mtc_perception.bundle import Thresholds
from mtc_perception.decode import binary_mask, decode_boxes
from mtc_perception.engine import Engine
from mtc_perception.files import write_text_atomic
from mtc_perception.images import SourceImage
from mtc_perception.layout import Sample, read_image, read_split, read_truth
from mtc_perception.metrics import PerceptionMetrics
from mtc_perception.perception import Perception, StageTimes
from mtc_perception.preprocess import Letterbox
from mtc_perception.provenance import provenance
from offline_compress.subject import CHECKPOINT_THRESHOLDS, Subject

if TYPE_CHECKING:
    from torch import nn

    from offline_compress.models.registry import ModelSpec

SCORE_FLOOR = 0.001
"""Detections below this cannot change the figures, only cost time."""
HEADLINES = {"detection": "map50", "drivable": "miou", "lane": "iou"}
"""The figure that ranks frames, per task."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What a network says about one image of height H and width W, before any threshold."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    drivable: npt.NDArray[np.uint8]
    """[H, W] probability x 255."""
    lane: npt.NDArray[np.uint8]
    """[H, W] probability x 255."""
    inference_ms: float

    def perception(self, thresholds: Thresholds) -> Perception:
        """What `Perceiver` returns at these thresholds (but for the times of other stages)."""
        count = int(np.count_nonzero(self.scores >= np.float32(thresholds.score)))
        return Perception(
            boxes=self.boxes[:count],
            scores=self.scores[:count],
            labels=self.labels[:count],
            drivable=binary_mask(self.drivable, thresholds.drivable),
            lane=binary_mask(self.lane, thresholds.lane),
            times=StageTimes(preprocess_ms=0.0, inference_ms=self.inference_ms, decode_ms=0.0),
        )


@dataclass(frozen=True, slots=True)
class FrameScore:
    """How well one image went: `HEADLINES` of it alone, None where it has no labels for that."""

    sample: Sample
    figures: dict[str, float | None]


@dataclass(slots=True)
class Evaluation:
    """Everything measured on a set of samples."""

    metrics: PerceptionMetrics
    frames: list[FrameScore] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)


def infer(engine: Engine, image: SourceImage, max_detections: int) -> Frame:
    """Run one image through letterbox, engine and decoding. Raises EngineError."""
    _, height, width, _ = engine.input.shape
    letterbox = Letterbox.fit(image.height, image.width, height, width)
    letterbox.write(image, engine.input[0])
    begin = perf_counter()
    engine.start()
    outputs = engine.wait()
    inference_ms = (perf_counter() - begin) * 1e3
    boxes, scores, labels = decode_boxes(outputs, letterbox, SCORE_FLOOR, max_detections)
    return Frame(
        boxes=boxes,
        scores=scores,
        labels=labels,
        drivable=letterbox.mask_to_source(outputs.drivable[0]),
        lane=letterbox.mask_to_source(outputs.lane[0]),
        inference_ms=inference_ms,
    )


def evaluate_engine(
    engine: Engine,
    samples: Iterable[Sample],
    thresholds: Thresholds,
    max_detections: int,
) -> Evaluation:
    """Score a network on samples, one at a time.

    Raises LayoutError for a file that does not decode, EngineError if the engine fails.
    """

    def no_metrics() -> PerceptionMetrics:
        return PerceptionMetrics(thresholds.drivable, thresholds.lane, max_detections)

    evaluation = Evaluation(no_metrics())
    for sample in samples:
        pixels = read_image(sample.image_path)
        truth = read_truth(sample, pixels.shape[:2])
        frame = infer(engine, SourceImage(pixels, "rgb"), max_detections)
        alone = no_metrics()
        alone.update(truth, frame.boxes, frame.scores, frame.drivable, frame.lane)
        figures = alone.to_json()
        evaluation.metrics.merge(alone)
        evaluation.inference_ms.append(frame.inference_ms)
        evaluation.frames.append(
            FrameScore(
                sample,
                {task: figures.get(task, {}).get(name) for task, name in HEADLINES.items()},
            )
        )
    return evaluation


def evaluate_network(
    model: "nn.Module", spec: "ModelSpec", root: Path, split: str
) -> dict[str, Any]:
    """Metric JSON of a network in training on one split of a data set, at neutral thresholds."""
    from offline_compress.export import MAX_DETECTIONS
    from offline_compress.torch_engine import TorchEngine

    engine = TorchEngine(model, spec.height, spec.width)
    samples = read_split(root, split)
    return evaluate_engine(engine, samples, CHECKPOINT_THRESHOLDS, MAX_DETECTIONS).metrics.to_json()


def evaluate_subject(subject: Subject, samples: Iterable[Sample]) -> Evaluation:
    """Score a subject on samples. Raises LayoutError and EngineError."""
    return evaluate_engine(subject.engine, samples, subject.thresholds, subject.max_detections)


def result_json(subject: Subject, evaluation: Evaluation, data: Path, split: str) -> dict[str, Any]:
    """The metric JSON of an evaluation, with thresholds swept and everything it depended on."""
    return {
        **evaluation.metrics.to_json(),
        "params": subject.params,
        "gmacs": subject.gmacs,
        "latency_ms": round(statistics.median(evaluation.inference_ms), 3),
        "sweep": evaluation.metrics.sweep_json(),
        "model": subject.identity,
        "engine": {
            "name": subject.engine.name,
            "precision": subject.engine.precision,
            "device": subject.engine.device,
            "why": subject.engine_reason,
        },
        "data": {"name": data.resolve().name, "split": split, "images": len(evaluation.frames)},
        **provenance(),
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result JSON atomically; its folder must exist."""
    write_text_atomic(path, json.dumps(result, indent=2) + "\n")


def ranked(frames: Sequence[FrameScore], task: str, count: int) -> tuple[list[int], list[int]]:
    """Indices of the `count` worst (worst first) and best (best first) frames of a task."""
    known = [
        (figure, index)
        for index, frame in enumerate(frames)
        if (figure := frame.figures[task]) is not None
    ]
    order = [index for _, index in sorted(known)]
    worst = order[: min(count, (len(order) + 1) // 2)]
    best = [index for index in reversed(order) if index not in worst][:count]
    return worst, best

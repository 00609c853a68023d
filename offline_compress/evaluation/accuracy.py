"""Evaluation of checkpoints and bundles: one path from image file to metric JSON.

The frames go through the vehicle's own letterbox, engine and decoding, and are scored in source
pixels. Masks are kept as probabilities until they are scored, so that every threshold is known;
at the given ones they are the very masks that `Perceiver` returns.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtc_perception.core.bundle import Thresholds
from mtc_perception.core.class_map import VEHICLE_CLASSES, ClassMap
from mtc_perception.core.engine import Engine
from mtc_perception.core.images import SourceImage
from mtc_perception.core.input_size import Fit, InputSize
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.perception import (
    SCORE_FLOOR,
    Perception,
    StageTimes,
    binary_mask,
    decode_boxes,
)
from mtc_perception.core.tasks import TASKS, Task
from mtc_perception.core.truth import GroundTruth
from mtc_perception.datasets.layout import BrokenFile, Sample, known_truth, read_source
from mtc_perception.datasets.sample import Problem
from mtc_perception.metrics.tasks import ImageEvidence, PerceptionMetrics
from mtc_perception.util.read_ahead import map_ahead
from offline_compress.data.labelled import warn
from offline_compress.evaluation.subject import Subject

MOST_WORKERS = 8
"""Threads that decode and score images beside the network; more than keep one GPU busy."""


@dataclass(frozen=True, slots=True, eq=False)
class RawPerception:
    """What a network says about one image of height H and width W, before any threshold."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    drivable: npt.NDArray[np.uint8] | None
    """[H, W] probability x 255; None of a network that lacks it, as is the next."""
    lane: npt.NDArray[np.uint8] | None
    """[H, W] probability x 255."""
    size: tuple[int, int]
    """H, W"""

    def perception(self, thresholds: Thresholds) -> Perception:
        """What `Perceiver` returns at these thresholds, but for times and tasks."""

        def mask(
            probability: npt.NDArray[np.uint8] | None, threshold: float
        ) -> npt.NDArray[np.uint8] | None:
            return None if probability is None else binary_mask(probability, threshold)

        count = int(np.count_nonzero(self.scores >= np.float32(thresholds.score)))
        return Perception(
            size=self.size,
            boxes=self.boxes[:count],
            scores=self.scores[:count],
            labels=self.labels[:count],
            drivable=mask(self.drivable, thresholds.drivable),
            lane=mask(self.lane, thresholds.lane),
            times=StageTimes(preprocess_ms=0.0, inference_ms=0.0, decode_ms=0.0),
        )


@dataclass(frozen=True, slots=True)
class FrameScore:
    """How well one image went: `PerceptionMetrics.headlines` of it alone."""

    sample: Sample
    figures: dict[str, float | None]
    evidence: ImageEvidence = field(default_factory=ImageEvidence)
    """At the thresholds of the evaluation."""
    unreadable: bool = False
    """The image cannot be decoded, and is a miss of all that is labelled in it."""


@dataclass(slots=True)
class Evaluation:
    """Everything measured on a set of samples."""

    metrics: PerceptionMetrics
    conditions: dict[str, dict[str, PerceptionMetrics]] = field(default_factory=dict)
    """By attribute of the samples (weather, ...) and its value: the same metrics of that part."""
    frames: list[FrameScore] = field(default_factory=list)

    def add(self, frame: FrameScore, alone: PerceptionMetrics) -> None:
        """Count one image, given its metrics alone."""
        self.metrics.merge(alone)
        for attribute, value in frame.sample.attributes.items():
            values = self.conditions.setdefault(attribute, {})
            if value not in values:
                values[value] = self.metrics.fresh()
            values[value].merge(alone)
        self.frames.append(frame)


def read_for(engine: Engine, path: Path, fit: Fit = "letterbox") -> SourceImage:
    """The image of a file, decoded as on the vehicle for this network. Raises LayoutError."""
    _, height, width, _ = engine.input.shape
    return read_source(path, InputSize(height, width, fit))


def infer(
    engine: Engine, image: SourceImage, max_detections: int, fit: Fit = "letterbox"
) -> RawPerception:
    """Run one image through letterbox, engine and decoding. Raises EngineError."""
    _, height, width, _ = engine.input.shape
    letterbox = Letterbox.fit(image.height, image.width, height, width, fit)
    engine.prepare(image, letterbox)
    engine.start()
    outputs = engine.wait()
    boxes, scores, labels = decode_boxes(outputs, letterbox, SCORE_FLOOR, max_detections)

    def mask(output: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.uint8] | None:
        return None if output is None else letterbox.mask_to_source(output[0])

    return RawPerception(
        boxes=boxes,
        scores=scores,
        labels=labels,
        drivable=mask(outputs.drivable),
        lane=mask(outputs.lane),
        size=(image.height, image.width),
    )


def evaluate_engine(
    engine: Engine,
    samples: Iterable[Sample],
    thresholds: Thresholds,
    max_detections: int,
    fit: Fit = "letterbox",
    tasks: Sequence[Task] = TASKS,
    classes: ClassMap = VEHICLE_CLASSES,
) -> Evaluation:
    """Score a network, which finds `classes` in images that are made to fill its input by `fit`, on
    samples, one at a time.

    Labels of other `tasks` than the network's do not count.
    Images are decoded ahead, and scored behind, by threads. Of what does not decode there is a
    warning: an image is a miss of all that is labelled in it, a mask unlabelled. Raises EngineError
    if the engine fails.
    """
    problems: list[Problem] = []
    evaluation = Evaluation(
        PerceptionMetrics(
            thresholds.drivable, thresholds.lane, max_detections, thresholds.score, classes
        )
    )

    def load(sample: Sample) -> tuple[Sample, SourceImage | None, GroundTruth, list[Problem]]:
        found: list[Problem] = []
        image = None
        try:
            image = read_for(engine, sample.image_path, fit)
        except BrokenFile as error:
            found.append(error.problem)
        size = None if image is None else (image.height, image.width)
        truth, of_labels = known_truth(sample, size)
        return sample, image, (truth or GroundTruth()).of(tasks), found + of_labels

    def frames(
        pool: ThreadPoolExecutor,
    ) -> Iterator[tuple[Sample, GroundTruth, RawPerception | None]]:
        for sample, image, truth, found in map_ahead(pool, load, samples, MOST_WORKERS):
            problems.extend(found)
            answer = None if image is None else infer(engine, image, max_detections, fit)
            yield sample, truth, answer

    def score(
        one: tuple[Sample, GroundTruth, RawPerception | None],
    ) -> tuple[FrameScore, PerceptionMetrics]:
        sample, truth, answer = one
        frame = answer or _nothing(truth)
        alone = evaluation.metrics.fresh()
        alone.update(truth, frame.boxes, frame.scores, frame.drivable, frame.lane, frame.labels)
        return FrameScore(sample, alone.headlines(), alone.evidence(), answer is None), alone

    with ThreadPoolExecutor(min(MOST_WORKERS, len(os.sched_getaffinity(0)))) as pool:
        for frame_score, alone in map_ahead(pool, score, frames(pool), MOST_WORKERS):
            evaluation.add(frame_score, alone)
    warn(problems)
    return evaluation


def _nothing(truth: GroundTruth) -> RawPerception:
    """What is found in an image of these labels that nobody can see."""
    masks = [mask for mask in (truth.drivable, truth.lane) if mask is not None]
    height, width = masks[0].shape if masks else (1, 1)
    empty = np.zeros((height, width), np.uint8)
    return RawPerception(
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        labels=np.zeros(0, np.int32),
        drivable=empty,
        lane=empty,
        size=(height, width),
    )


def evaluate_subject(subject: Subject, samples: Iterable[Sample]) -> Evaluation:
    """Score a subject on samples. Raises EngineError."""
    return evaluate_engine(
        subject.engine,
        samples,
        subject.thresholds,
        subject.max_detections,
        subject.fit,
        subject.tasks,
        subject.class_map,
    )


def ranked(frames: Sequence[FrameScore], task: str, count: int) -> tuple[list[int], list[int]]:
    """Indices of the `count` worst (worst first) and best (best first) frames of a task.

    Images that cannot be decoded are none of them: there is nothing to show.
    """
    known = [
        (figure, frame.sample.stem, index)
        for index, frame in enumerate(frames)
        if (figure := frame.figures[task]) is not None and not frame.unreadable
    ]
    order = [index for *_, index in sorted(known)]
    worst = order[: min(count, (len(order) + 1) // 2)]
    best = [index for index in reversed(order) if index not in worst][:count]
    return worst, best

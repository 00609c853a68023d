"""Frames as teacher and student see them, side by side."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mtc_perception.core.overlay import draw_overlay
from mtc_perception.core.tasks import TASKS
from mtc_perception.datasets.layout import Sample, read_image
from mtc_perception.metrics.figures import IMAGE_LABELS
from mtc_perception.util.progress import NamedCount
from offline_compress.data.labelled import evenly, labelled_sets
from offline_compress.evaluation.accuracy import evaluate_subject, infer, read_for
from offline_compress.evaluation.evaluation_report import FramePair, jpeg_base64
from offline_compress.evaluation.subject import Subject, open_subject
from offline_compress.recipe.parts import DataSource

COMPARED = 60
"""Images of the validation sets, evenly spread, that both networks are compared on."""


def side_by_side(
    teacher: Path, student: Path, sources: Sequence[DataSource], count: NamedCount
) -> Iterator[FramePair]:
    """The frame on which the student loses most, for every task, and one on which nothing stands
    out: teacher left, student right, at neutral thresholds.

    Raises UserError if a network or a data set cannot be read.
    """
    sets = labelled_sets(sources, "compare on").values()
    samples = evenly([sample for one in sets for sample in one], COMPARED)
    seen: list[Sample] = []
    first, second = open_subject(teacher), open_subject(student)
    scores = []
    for name, subject in (("teacher", first), ("student", second)):

        def counted(name: str = name) -> Iterator[Sample]:
            for done, sample in enumerate(samples):
                count(f"comparing, {name}", done, len(samples))
                yield sample

        evaluation = evaluate_subject(subject, counted())
        frames = [frame for frame in evaluation.frames if not frame.unreadable]
        seen = [frame.sample for frame in frames]
        scores.append([frame.figures for frame in frames])
    for words, index in chosen(*scores):
        yield FramePair(f"{seen[index].stem}: {words}", draw_pair(first, second, seen[index]))


def chosen(
    teacher: Sequence[dict[str, float | None]], student: Sequence[dict[str, float | None]]
) -> Iterator[tuple[str, int]]:
    """What to show, in words, with the index of its frame; figures per task of every frame."""
    total = np.zeros(len(teacher))
    for task in TASKS:
        known = [
            (after - before, index)
            for index, (old, new) in enumerate(zip(teacher, student, strict=True))
            if (before := old[task]) is not None and (after := new[task]) is not None
        ]
        for change, index in known:
            total[index] += change
        if known:
            change, index = min(known)
            yield f"the largest loss in {IMAGE_LABELS[task]} ({100 * change:+.1f} points)", index
    if len(total):
        middle = int(np.argsort(total, kind="stable")[len(total) // 2])
        yield f"the median change ({100 * total[middle]:+.1f} points over the tasks)", middle


def draw_pair(teacher: Subject, student: Subject, sample: Sample) -> str:
    """One image with the answers of both, as a base64 JPEG."""
    pixels = read_image(sample.image_path)
    halves = []
    for subject in (teacher, student):
        image = read_for(subject.engine, sample.image_path, subject.fit)
        frame = infer(subject.engine, image, subject.max_detections, subject.fit)
        perception = frame.perception(subject.thresholds)
        halves.append(draw_overlay(pixels, perception, subject.class_map.names))
    return jpeg_base64(np.hstack(halves))

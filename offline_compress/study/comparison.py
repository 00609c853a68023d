"""From the evidence of all networks to figures, differences, intervals and verdicts.

What is held out is pooled: every image of every drive, judged by the network that never saw its
drive. The score threshold of a network is the one with the best F1 over the *other* drives, as the
networks of the same row and seed answer there: what a drive is reported at was not chosen on it.
Of a single drive, figures at a threshold are therefore not known. Masks are taken at 0.5.

Images are resampled, in blocks within drives (`metrics.bootstrap`), the same ones for two rows that
are compared. Every seed, and on a further set every fold's network, is weighed with the same
images, and their figures are averaged inside each resample: an interval speaks of other images,
given these networks. Two or three seeds cannot tell how much another training would differ: their
standard deviation is given beside.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtc_perception.metrics.bootstrap import (
    Difference,
    Estimate,
    Places,
    Resamples,
    Values,
    blocks_of_images,
    drive_of,
    interval,
    strata_of,
)
from mtc_perception.metrics.detection import DetectionMetric
from mtc_perception.metrics.equivalence import verdict
from mtc_perception.metrics.estimates import (
    deployed_counts,
    deployed_estimates,
    detection_estimates,
    mask_estimates,
)
from mtc_perception.metrics.figures import figures
from mtc_perception.metrics.masks import number
from mtc_perception.metrics.tasks import FINE_SWEEP, ImageEvidence, best_threshold
from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS

FIGURES = figures(
    *("detection.map50", "detection.map50_95"),
    *("detection.recall_at_threshold", "detection.precision_at_threshold"),
    *("drivable.miou", "lane.iou"),
)
"""Recall and precision at a threshold that was chosen on other drives."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one network says about a set, image by image."""

    drive: str
    """That the network never saw."""
    seed: int | None
    stems: list[str]
    evidence: list[ImageEvidence]
    attributes: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Part:
    """Images that stand in one line of a table."""

    set: str
    part: str
    """`all`, a drive, or a condition."""
    images: Places
    """Their numbers among those of the set."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One network, or the networks of all folds together, on all images of a set."""

    stems: list[str]
    evidence: list[ImageEvidence]
    thresholds: list[float]
    """The score threshold of each image's network; empty where none was chosen."""

    def estimates(self, images: Places) -> dict[str, Estimate]:
        """`FIGURES` of some of the images, as far as they are labelled."""
        evidence = [self.evidence[image] for image in images]
        found = mask_estimates(evidence) | detection_estimates(evidence)
        if self.thresholds and "detection.map50" in found:
            limits = [self.thresholds[image] for image in images]
            deployed = [_deployed(one, limit) for one, limit in zip(evidence, limits, strict=True)]
            found |= deployed_estimates(*deployed_counts(evidence, deployed))
        return {figure.name: found[figure.name] for figure in FIGURES if figure.name in found}


def cross_fitted(held_out: Sequence[Answers]) -> dict[str, float]:
    """The score threshold of each drive's network, given what is held out of all: the best for F1
    over the other drives. The neutral one where no vehicle is labelled there; none of a single
    drive."""
    if len(held_out) < 2:
        return {}
    limits = {}
    for own in held_out:
        metric = DetectionMetric()
        for other in held_out:
            for one in other.evidence if other.drive != own.drive else ():
                if one.detection is not None:
                    metric.add(one.detection)
        best = best_threshold(FINE_SWEEP, metric.sweep(FINE_SWEEP)["f1"])
        limits[own.drive] = CHECKPOINT_THRESHOLDS.score if best is None else best
    return limits


def pooled(held_out: Sequence[Answers], limits: Mapping[str, float]) -> Judged:
    """All drives, each as the network answers that never saw it."""
    return Judged(
        [stem for one in held_out for stem in one.stems],
        [image for one in held_out for image in one.evidence],
        [limits[one.drive] for one in held_out for _ in one.stems] if limits else [],
    )


def parts_of(name: str, answers: Sequence[Answers]) -> list[Part]:
    """The lines of a set, given the answers that make it up in their order: all of it, every drive
    where there are several, and every condition that is known."""
    drives = [one.drive for one in answers for _ in one.stems]
    attributes = [one for network in answers for one in network.attributes]
    parts = {"all": [True] * len(drives)}
    if len(answers) > 1:
        parts |= {drive: [one == drive for one in drives] for drive in dict.fromkeys(drives)}
    for attribute in sorted({key for one in attributes for key in one}):
        values = [one.get(attribute) for one in attributes]
        for value in sorted({one for one in values if one is not None}):
            parts[f"{attribute} {value}"] = [one == value for one in values]
    return [Part(name, words, np.flatnonzero(chosen)) for words, chosen in parts.items()]


def compare(
    part: Part,
    rows: Mapping[str, Sequence[Sequence[Judged]]],
    reference: str,
    margins: Mapping[str, float],
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """One line of a table: every row's figures on a part, and their differences to the reference.

    `rows` are the networks of each row by seed: one, or on a further set those of all folds;
    `tick` is called after each row. Values, their deviations over the seeds, changes and their
    intervals are fractions.
    """
    judged = rows[reference][0][0]
    weights = resampling([judged.stems[image] for image in part.images])
    found = {}
    for row, seeds in rows.items():
        found[row] = _resampled(seeds, part.images, weights)
        tick()
    detections = [judged.evidence[image].detection for image in part.images]
    return {
        "set": part.set,
        "part": part.part,
        "images": len(part.images),
        "objects": sum(one.objects for one in detections if one is not None),
        "rows": {
            row: {
                name: _figure(values)
                | (
                    {}
                    if row == reference
                    else _change(values, found[reference][name], margins.get(name))
                )
                for name, values in own.items()
            }
            for row, own in found.items()
        },
    }


def resampling(stems: Sequence[str]) -> list[Values]:
    """How often each image of a set counts: once each, then in every resample of blocks."""
    drives = [drive_of(stem) for stem in stems]
    blocks = blocks_of_images(drives)
    # Of one set, whatever its name.
    return [np.ones(len(drives)), *Resamples(blocks, strata_of(drives, blocks, [""] * len(drives)))]


def _resampled(
    seeds: Sequence[Sequence[Judged]], images: Places, weights: Sequence[Values]
) -> dict[str, Values]:
    """Figures of a row by name: [seeds, weights], the mean over each seed's networks."""
    estimates = [[one.estimates(images) for one in networks] for networks in seeds]
    return {
        name: np.array(
            [
                [np.mean([one[name](weight) for one in networks]) for weight in weights]
                for networks in estimates
            ]
        )
        for name in estimates[0][0]
    }


def _figure(values: Values) -> dict[str, float | None]:
    """Value and deviation over the seeds, of [seeds, weights] whose first weights are all 1; None
    where they are undefined."""
    whole = values[:, 0]
    deviation = number(float(whole.std(ddof=1))) if len(whole) > 1 else None
    return {"value": number(float(whole.mean())), "deviation": deviation}


def _change(values: Values, reference: Values, margin_points: float | None) -> dict[str, Any]:
    """The difference of two rows' figures, its interval, and what they say."""
    whole, *resampled = values.mean(0) - reference.mean(0)
    found = Difference(float(whole), *interval(resampled))
    return {
        "change": number(found.change),
        "low": found.low,
        "high": found.high,
        "verdict": None if margin_points is None else verdict(found, margin_points),
    }


def _deployed(one: ImageEvidence, limit: float) -> Places:
    """Which detections of an image reach a score threshold."""
    if one.detection is None:
        return np.zeros(0, np.intp)
    return np.flatnonzero(one.detection.scores >= np.float32(limit))

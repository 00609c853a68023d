"""`python -m bench.shipped`: accuracy of all that is shipped, with intervals.

Every bundle on OpenVINO in fp32 and in int8, and the checkpoint that it was pruned from, on `val`
of the public data sets that teacher and student were chosen by. No threshold is chosen on the
images that it is reported for: masks are taken at 0.5, and scores are cross-fitted. The images of a
set are halved in recorded order, where two blocks of neighbouring ones meet; in each half the score
threshold is the one with the best F1 in the other.

Intervals are those of `mtc-compress compare`: blocks of images are resampled, the same ones for two
networks that are compared.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench.common import ends_in_one_line, write_result
from bench.judging import answers
from mtc_perception.datasets.layout import Sample
from mtc_perception.metrics.bootstrap import Values, blocks_of_images, drive_of, interval
from mtc_perception.metrics.masks import number
from mtc_perception.util.progress import Progress
from offline_compress.data.labelled import labelled_sets
from offline_compress.evaluation.subject import Subject, open_subject
from offline_compress.recipe.parts import DataSource
from offline_compress.study.comparison import Answers, cross_fitted, pooled, resampling

NAME = "shipped"
TEACHERS = {"mtc_nano": "mtc_m", "mtc_small": "mtc_m"}
"""Every bundle of `models`, and the checkpoint in `models/checkpoints` that it was pruned from."""
DATA = ("camvid", "cityscapes", "idd")
ENGINE, PRECISIONS = "openvino", ("fp32", "int8")


@dataclass(frozen=True, slots=True)
class Compared:
    """A network, and the name of the one that its figures are compared with."""

    subject: Subject
    reference: str | None = None


def networks_of(models: Path, teachers: Mapping[str, str]) -> dict[str, Compared]:
    """All networks by name: a student in fp32 stands beside its teacher, in int8 beside fp32.

    Raises UserError if one is missing.
    """
    found: dict[str, Compared] = {}
    for bundle, teacher in teachers.items():
        if teacher not in found:
            found[teacher] = Compared(open_subject(models / "checkpoints" / teacher))
        reference = teacher
        for precision in PRECISIONS:
            subject = open_subject(models / f"{bundle}.mtc", ENGINE, precision)
            name = f"{bundle} {precision}"
            found[name] = Compared(subject, reference)
            reference = name
    return found


def shipped(
    networks: Mapping[str, Compared], sets: Mapping[str, Sequence[Sample]], progress: Progress
) -> dict[str, Any]:
    """Figures of the networks on every set, and their changes against the one that each is compared
    with; all with their intervals, as fractions. A reference stands before what refers to it."""
    content: dict[str, Any] = {"sets": {}, "networks": {}}
    for name, one in networks.items():
        subject = one.subject
        content["networks"][name] = {
            "reference": one.reference,
            "sha256": subject.identity["sha256"],
            "engine": subject.engine.name,
            "precision": subject.engine.precision,
            "params": subject.params,
            "gmacs": subject.gmacs,
            "score_thresholds": {},
            "sets": {},
        }
    for title, samples in sets.items():
        resampled: dict[str, dict[str, Values]] = {}
        for name, one in networks.items():
            counted = progress.track(samples, f"{name} on {title}", unit="img")
            halves = halved(answers(one.subject, counted, title))
            limits = cross_fitted(halves)
            resampled[name] = _resampled(halves, limits)
            against = resampled[one.reference] if one.reference else {}
            about = content["networks"][name]
            about["sets"][title] = {
                figure: _spread(values) | _change(values, against.get(figure))
                for figure, values in resampled[name].items()
            }
            known = [
                image.detection
                for half in halves
                for image in half.evidence
                if image.detection is not None
            ]
            if known:
                about["score_thresholds"][title] = list(limits.values())
            objects = sum(image.objects for image in known)
            # Of the first, a teacher, which does all that is labelled.
            content["sets"].setdefault(title, {"images": len(samples), "objects": objects})
    return content


def halved(one: Answers) -> list[Answers]:
    """The answers in two halves, cut where two blocks of neighbouring images meet."""
    blocks = blocks_of_images([drive_of(stem) for stem in one.stems])
    cut = int(np.searchsorted(blocks, (blocks.max(initial=0) + 1) // 2))
    return [
        Answers(name, None, one.stems[part], one.evidence[part], one.attributes[part])
        for name, part in (("first half", slice(cut)), ("second half", slice(cut, None)))
    ]


def _resampled(halves: Sequence[Answers], limits: Mapping[str, float]) -> dict[str, Values]:
    """Figures by name: [weights], the first of all images as they are."""
    judged = pooled(halves, limits)
    weights = resampling(judged.stems)
    estimates = judged.estimates(np.arange(len(judged.stems)))
    return {name: np.array([one(weight) for weight in weights]) for name, one in estimates.items()}


def _spread(values: Values) -> dict[str, float | None]:
    low, high = interval(values[1:].tolist())
    return {"value": number(float(values[0])), "low": low, "high": high}


def _change(values: Values, reference: Values | None) -> dict[str, Any]:
    if reference is None:
        return {}
    return {"change": _spread(values - reference)}


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{NAME}",
        description="Accuracy of the shipped bundles and their teachers, with intervals.",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    sources = [DataSource(root=Path(name), split="val") for name in DATA]
    sets = labelled_sets(sources, "evaluate on")
    with Progress(alone=True) as progress:
        content = shipped(networks_of(Path("models"), TEACHERS), sets, progress)
    path = write_result(options.results, NAME, content)
    Console().print(f"wrote {path}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

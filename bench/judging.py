"""What networks say about the images of public data sets, for figures with intervals."""

from collections.abc import Iterable
from dataclasses import replace

from mtc_perception.datasets.layout import Sample
from offline_compress.evaluation.accuracy import evaluate_subject
from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS, Subject
from offline_compress.study.comparison import Answers


def answers(subject: Subject, samples: Iterable[Sample], drive: str) -> Answers:
    """A network on the images of a drive, masks at the neutral thresholds: those of a bundle may
    have been chosen on these very images."""
    frames = evaluate_subject(replace(subject, thresholds=CHECKPOINT_THRESHOLDS), samples).frames
    return Answers(
        drive,
        None,
        [frame.sample.stem for frame in frames],
        [frame.evidence for frame in frames],
        [dict(frame.sample.attributes) for frame in frames],
    )

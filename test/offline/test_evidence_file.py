"""What every image says, written and read."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc_perception.metrics.detection import DetectionEvidence
from mtc_perception.metrics.masks import MaskCounts
from mtc_perception.metrics.tasks import ImageEvidence, PerceptionMetrics
from mtc_perception.util.errors import UserError
from offline_compress.data.labelled import source_samples
from offline_compress.evaluation.accuracy import evaluate_subject
from offline_compress.evaluation.evidence_file import read_evidence, write_evidence
from offline_compress.evaluation.subject import open_subject
from offline_compress.recipe.parts import DataSource

BITS = st.integers(0, 1023)
DETECTIONS = st.lists(st.tuples(st.floats(0, 1, width=32), BITS, BITS), max_size=4)
COUNTS = st.builds(MaskCounts, *[st.integers(0, 10**7)] * 4) | st.none()


@st.composite
def images(draw: st.DrawFn) -> ImageEvidence:
    detection = None
    if draw(st.booleans()):
        found = sorted(draw(DETECTIONS), reverse=True)
        columns = ([one[k] for one in found] for k in range(3))
        kinds = (np.float32, np.uint16, np.uint16)
        arrays = [np.array(one, kind) for one, kind in zip(columns, kinds, strict=True)]
        labels = np.array([draw(st.integers(0, 1)) for _ in found], np.uint16)
        objects = draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
        detection = DetectionEvidence(*arrays, labels, objects)
    return ImageEvidence(detection, draw(COUNTS), draw(COUNTS), draw(COUNTS))


def same(one: ImageEvidence, other: ImageEvidence) -> bool:
    if (one.drivable, one.lane, one.lane_dilated) != (
        other.drivable,
        other.lane,
        other.lane_dilated,
    ):
        return False
    a, b = one.detection, other.detection
    if a is None or b is None:
        return a is b
    pairs = ((a.scores, b.scores), (a.right, b.right), (a.ignored, b.ignored))
    return a.objects == b.objects and all(np.array_equal(x, y) for x, y in pairs)


@given(st.lists(images(), max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, written: list) -> None:
    path = tmp_path_factory.mktemp("evidence") / "one.npz"
    write_evidence(path, [f"s{k}" for k in range(len(written))], written)
    stems, found = read_evidence(path)
    assert stems == [f"s{k}" for k in range(len(written))]
    assert all(same(one, other) for one, other in zip(written, found, strict=True))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04broken"])
def test_what_is_none_of_ours_is_refused_in_a_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "one.npz"
    with pytest.raises(UserError, match="does not exist"):
        read_evidence(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        read_evidence(path)


def test_an_evaluation_is_the_sum_of_what_its_images_say(dataset: Path, checkpoint: Path) -> None:
    samples = source_samples(DataSource(root=dataset, split="train"))
    evaluation = evaluate_subject(open_subject(checkpoint), samples)
    metrics = PerceptionMetrics()
    for frame in evaluation.frames:
        evidence = frame.evidence
        assert evidence.detection is not None
        metrics.detection.add(evidence.detection)
        for name in ("drivable", "lane", "lane_dilated"):
            getattr(metrics, name).add(getattr(evidence, name))
    whole, summed = evaluation.metrics.to_json(), metrics.to_json()
    for task in ("detection", "drivable", "lane"):
        assert summed[task] == pytest.approx(whole[task])

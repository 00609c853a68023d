"""What the offline commands make of image files is what the vehicle makes of the same images."""

from pathlib import Path

import pytest

from mtc_perception.datasets.layout import LayoutError, read_image, read_split
from mtc_perception.metrics.figures import ACCURACY
from offline_compress.data.check import check_data
from offline_compress.evaluation.accuracy import evaluate_subject
from offline_compress.evaluation.subject import open_subject
from support.odd_images import LOST_END, LOST_MIDDLE, damaged_data_set, data_set
from support.replay_rig import evaluate


def test_evaluate_and_replay_have_the_same_figures_of_turned_and_odd_files(
    tmp_path: Path, toy_bundle: Path
) -> None:
    root = data_set(tmp_path / "data")
    replayed = evaluate(tmp_path / "run", toy_bundle, root / "images/val")
    subject = open_subject(toy_bundle, "onnxruntime")
    evaluated = evaluate_subject(subject, read_split(root, "val")).metrics.to_json()
    known = [figure for figure in ACCURACY.values() if figure.of(evaluated) is not None]
    assert known
    for figure in known:
        assert figure.of(evaluated) == figure.of(replayed), figure.name
    assert evaluated["drivable"]["miou"] > 0.9


def test_damaged_files_are_named(tmp_path: Path) -> None:
    root = damaged_data_set(tmp_path / "data")
    report = check_data(root, None, lambda *_: None)
    found = {problem.path.stem: problem for problem in report.problems}
    assert set(found) == {str(LOST_MIDDLE), str(LOST_END)}
    for problem in found.values():
        assert problem.kind == "unreadable image"
        assert problem.reason == "JPEG image cannot be decoded: premature end of data segment"
        with pytest.raises(LayoutError, match=rf"{problem.path.stem}\.jpg: JPEG image cannot be"):
            read_image(problem.path)

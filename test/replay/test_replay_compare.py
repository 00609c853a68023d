"""Comparing runs: the same figures as in the results, chance told from change, images named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtc_perception.core.bundle import Thresholds
from mtc_perception.metrics.tasks import PerceptionMetrics
from mtc_perception.replay.records.record import FrameRecord, read_frames
from mtc_perception.replay.results.comparison import Image, compare_runs, pair_images
from mtc_perception.replay.results.record_estimates import accuracy_estimates, seconds_of
from mtc_perception.replay.results.run_result import read_result, write_result
from support.bag_messages import IMAGE, images, write_bag
from support.replay_rig import evaluate, labelled_bag, run
from support.toy_bundle import write_toy_bundle

SECOND_NS = 1_000_000_000


def test_blocks_end_with_streams_pauses_and_missing_stamps() -> None:
    thirty = [index * SECOND_NS // 30 for index in range(600)]
    assert seconds_of(["drive"] * 600, thirty).tolist() == np.repeat(np.arange(20), 30).tolist()
    stamps = [0, SECOND_NS // 2, 5 * SECOND_NS, 4 * SECOND_NS, 4 * SECOND_NS + 1]
    assert seconds_of(["a"] * 5, stamps).tolist() == [0, 0, 1, 2, 2]
    assert seconds_of(["a", "a", "b", "b"], [0, 1, 2, 3]).tolist() == [0, 0, 1, 1]
    assert seconds_of(["a"] * 3, [None] * 3).tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path) -> tuple[Path, Path]:
    """A bag of 40 images through the toy network, and with lane thresholds that miss them all."""
    root = tmp_path_factory.mktemp("runs")
    blind = write_toy_bundle(
        root / "blind.mtc", thresholds=Thresholds(score=0.2, drivable=0.5, lane=1.0)
    )
    bag = labelled_bag(root / "drive", count=70)
    evaluate(root / "seeing", toy_bundle, bag)
    evaluate(root / "blind", blind, bag)
    return root / "seeing", root / "blind"


def test_figures_are_those_of_the_results(runs: tuple[Path, Path]) -> None:
    comparison = compare_runs(*runs, lambda done, total: None)
    results = [read_result(one) for one in runs]
    rows = {row["name"]: row for row in comparison["figures"]}
    assert {"detection.map50", "drivable.miou", "lane.iou", "lane.accuracy"} <= rows.keys()
    assert "latency_ms.end_to_end.p95" in rows
    for name, row in rows.items():
        for side, result in zip("ab", results, strict=True):
            expected: Any = result
            for part in name.split("."):
                expected = expected[part]
            assert row[side] == pytest.approx(expected), name
    assert comparison["against"] == "ground truth"
    assert (comparison["images"], comparison["only_a"], comparison["only_b"]) == (70, 0, 0)


def test_what_got_worse_is_told_with_its_images(runs: tuple[Path, Path]) -> None:
    comparison = compare_runs(*runs, lambda done, total: None)
    verdicts = {row["name"]: row["verdict"] for row in comparison["figures"]}
    assert verdicts["lane.iou"] == "worse"
    # All of an image or nothing of it: one half is as right as the other.
    assert verdicts["lane.accuracy"] == "no difference"
    assert verdicts["detection.map50"] == verdicts["drivable.iou"] == "no difference"
    assert 0 < comparison["different_answers"] <= 70
    changed = comparison["changed_images"]
    assert {row["task"] for row in changed} == {"lane"}
    assert len(changed) == 10
    assert all(row["b"] == 0.0 and row["change"] < 0 for row in changed)
    assert all(row["index_a"] == row["index_b"] for row in changed)
    assert comparison["notes"] == []
    back = compare_runs(*reversed(runs), lambda done, total: None)
    verdicts = {row["name"]: row["verdict"] for row in back["figures"]}
    assert verdicts["lane.iou"] == "better"
    same = compare_runs(runs[0], runs[0], lambda done, total: None)
    assert {row["verdict"] for row in same["figures"]} == {"no difference"}
    assert same["different_answers"] == 0


def test_an_image_of_weight_two_counts_twice(runs: tuple[Path, Path]) -> None:
    [folder] = (runs[0] / "streams").iterdir()
    records = list(read_frames(folder))[:30]
    figures = accuracy_estimates(records, [record.evidence for record in records], True)
    weights = np.random.default_rng(4).integers(0, 4, len(records)).astype(float)
    metrics = PerceptionMetrics(0.5, 0.5, 5, 0.2)
    for record, weight in zip(records, weights, strict=True):
        for _ in range(int(weight)):
            assert record.evidence is not None
            metrics.add(record.evidence)
    expected = metrics.to_json()
    for name, figure in figures.items():
        task, _, key = name.partition(".")
        assert figure(weights) == pytest.approx(expected[task][key]), name


def test_images_are_paired_by_stream_and_stamp() -> None:
    def side(*stamps: tuple[str, int]) -> list[Image]:
        return [
            Image(stream, FrameRecord(index, stamp_ns, "processed"), None)
            for index, (stream, stamp_ns) in enumerate(stamps)
        ]

    a = side(("x", 1), ("x", 2), ("x", 2), ("y", 1), ("y", 9))
    b = side(("y", 1), ("x", 2), ("x", 2), ("x", 3))
    paired = pair_images(a, b)
    assert [image.record.index for image in paired.a] == [1, 2, 3]
    assert [image.record.index for image in paired.b] == [1, 2, 0]
    assert (paired.only_a, paired.only_b) == (2, 1)


def test_the_command_writes_its_findings(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", *runs, "--out", tmp_path / "findings") == 0
    printed = capsys.readouterr().out
    assert "lane.iou" in printed
    assert "lane, most worse: drive:/front/image_raw image" in printed
    content = json.loads((tmp_path / "findings" / "comparison.json").read_text())
    assert content["b"]["bundle"] == "blind.mtc"
    assert (tmp_path / "findings" / "index.html").stat().st_size > 10_000


def test_recordings_of_one_name_in_other_places_are_told(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(runs[1], tmp_path / "moved")
    result = read_result(runs[1])
    result["streams"][0]["path"] = "/elsewhere/drive"
    write_result(tmp_path / "moved", result)
    [note] = compare_runs(runs[0], tmp_path / "moved", lambda done, total: None)["notes"]
    path = runs[0].parent / "drive"
    assert note == (
        f"streams are joined by name: drive:/front/image_raw is {path} in run A and "
        "/elsewhere/drive in run B"
    )


def test_labels_that_differ_are_told(tmp_path: Path, toy_bundle: Path) -> None:
    bag = labelled_bag(tmp_path / "drive", count=6)
    evaluate(tmp_path / "a", toy_bundle, bag)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    [file] = tmp_path.glob("b/streams/*/frames.jsonl")
    lines = file.read_text().splitlines()
    content = json.loads(lines[2])
    content["evidence"]["lane"][2] += 1
    file.write_text("\n".join([*lines[:2], json.dumps(content), *lines[3:]]))
    notes = compare_runs(tmp_path / "a", tmp_path / "b", lambda done, total: None)["notes"]
    assert notes == [
        "the labels of 1 images differ between the runs",
        "too few images for intervals: they take 5 s of a recording, or 5 images of a folder",
    ]


def test_runs_of_other_recordings_are_refused(
    runs: tuple[Path, Path],
    tmp_path: Path,
    toy_bundle: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = write_bag(tmp_path / "other", {"/cam": (IMAGE, images())})
    evaluate(tmp_path / "run", toy_bundle, other)
    assert run("compare", runs[0], tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "no image in common" in error
    assert "other:/cam" in error
    assert run("compare", runs[0], tmp_path) == 2
    assert "is " in capsys.readouterr().err

"""`mtc-compress evaluate` on several data sets and `compare`: means, conditions, verdicts."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from offline_compress import cli
from offline_compress.evaluation.evidence_file import read_evidence
from support.labelled_roads import DataSet, road
from support.toy_bundle import write_toy_bundle

IMAGES = 42
BLIND = "detection.recall_at_threshold"
"""Of a network with a score threshold that nothing reaches."""


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of `mtc-compress` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["mtc-compress", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return int(exit_info.value.code or 0)


def write_sets(folder: Path) -> list[Path]:
    """A town of two drives, one at dusk, and a village without lane labels."""
    rgb, drivable, lane, box = road()
    roots = [folder / "town", folder / "village"]
    for root in roots:
        root.mkdir(parents=True)
        data = DataSet(root)
        for index in range(IMAGES):
            stem = f"{'dusk' if index < IMAGES // 2 else 'noon'}_{index:04}"
            label = np.roll(lane, index % 4, axis=1) if root.name == "town" else None
            data.add(stem, rgb, drivable, label, [box])
    return roots


@pytest.fixture
def conditions(tmp_path: Path) -> Path:
    path = tmp_path / "conditions.yaml"
    path.write_text('light: {dusk: ["dusk*"], day: ["*"]}\n')
    return path


def test_several_sets_and_their_mean_are_compared(
    toy_bundle: Path,
    conditions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    town, village = write_sets(tmp_path / "data")
    data = ("--data", town, "--data", village, "--conditions", conditions)
    a, blind = tmp_path / "a", tmp_path / "blind"
    asked = ("evaluate", toy_bundle, *data, "--engine", "onnxruntime", "--out")
    assert command(monkeypatch, *asked, a) == 0
    printed = capsys.readouterr().out
    assert "│ mean " in printed
    assert command(monkeypatch, *asked, blind, "--score", 1.0) == 0

    result = json.loads((a / "metrics.json").read_text())
    alone = {
        root.name: json.loads((a / root.name / "metrics.json").read_text())
        for root in (town, village)
    }
    assert result["lane"]["iou"] == alone["town"]["lane"]["iou"]
    values = [one["drivable"]["miou"] for one in alone.values()]
    assert result["drivable"]["miou"] == pytest.approx(sum(values) / 2)
    assert result["data"]["images"] == 2 * IMAGES
    assert set(alone["town"]["conditions"]["light"]) == {"dusk", "day"}
    stems, evidence = read_evidence(a / "village" / "evidence.npz")
    assert (stems[0], len(evidence), evidence[0].lane) == ("dusk_0000", IMAGES, None)

    capsys.readouterr()
    assert command(monkeypatch, "compare", a, blind, "--margin", f"{BLIND}=2") == 0
    found = json.loads((blind / "against_a" / "comparison.json").read_text())
    names = [group["name"] for group in found["groups"]]
    assert names[0:2] == ["town", "village"]
    assert "town, light dusk" in names
    assert names[-1] == "mean over the sets"
    for group in found["groups"]:
        for figure in group["figures"]:
            if figure["verdict"] and figure["low"] is not None:
                expected = "lost" if figure["name"] == BLIND else "equivalent"
                assert figure["verdict"] == expected, figure
    mean = {figure["name"]: figure for figure in found["groups"][-1]["figures"]}
    assert (mean[BLIND]["margin_points"], mean[BLIND]["verdict"]) == (2, "lost")
    assert mean["lane.iou"]["a"] == pytest.approx(result["lane"]["iou"])
    assert mean["detection.map50_95"]["a"] == pytest.approx(result["detection"]["map50_95"])
    assert "lost" in capsys.readouterr().out
    assert "mean over the sets" in (blind / "against_a" / "index.html").read_text()


def test_mistakes_are_one_line(
    toy_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    town, village = write_sets(tmp_path / "data")
    for root in (town, village):
        asked = ("evaluate", toy_bundle, "--data", root, "--engine", "onnxruntime", "--limit", 2)
        assert command(monkeypatch, *asked, "--out", tmp_path / root.name) == 0
    a, b = tmp_path / "town", tmp_path / "village"
    capsys.readouterr()
    for arguments, words in (
        ((a, b), "no image in common"),
        ((a, tmp_path / "nothing"), "cannot be read"),
        ((a, a, "--margin", "lane.iuo=1"), "no such figure"),
        ((a, a, "--margin", "lane.iou=few"), "no number of points"),
    ):
        assert command(monkeypatch, "compare", *arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    (a / "evidence.npz").unlink()
    assert command(monkeypatch, "compare", a, a) == 2
    assert "evaluate the network first" in capsys.readouterr().err
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("light: dusk\n")
    asked = ("evaluate", toy_bundle, "--data", town, "--conditions", wrong)
    assert command(monkeypatch, *asked) == 2
    assert "wrong.yaml: light: " in capsys.readouterr().err


def test_a_network_that_lacks_tasks_is_compared_in_those_it_has(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town, _ = write_sets(tmp_path / "data")
    masks = write_toy_bundle(tmp_path / "masks.mtc", tasks=("drivable", "lane"))
    for name, bundle in (("whole", toy_bundle), ("masks", masks)):
        asked = ("evaluate", bundle, "--data", town, "--engine", "onnxruntime")
        assert command(monkeypatch, *asked, "--out", tmp_path / name) == 0
    whole, part = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "masks")
    )
    assert "detection" not in part
    assert part["drivable"] == whole["drivable"]
    assert command(monkeypatch, "compare", tmp_path / "whole", tmp_path / "masks") == 0
    folder = tmp_path / "masks" / "against_whole"
    found = json.loads((folder / "comparison.json").read_text())
    names = {figure["name"] for figure in found["groups"][0]["figures"]}
    assert {"drivable.miou", "lane.iou"} <= names
    assert not [name for name in names if name.startswith("detection")]
    assert found["notes"] == ["A alone has figures of detection, B does not: not compared"]

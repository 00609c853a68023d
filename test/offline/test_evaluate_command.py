"""`mtc-compress evaluate`: what it writes and prints, what export makes of it, mistakes."""

import json
import re
import shutil
from pathlib import Path

import pytest

from mtc_perception.core.bundle import read_bundle
from support.labelled_roads import DataSet, road
from support.programs import mtc_compress


def test_command_writes_figures_and_pictures(
    toy_bundle: Path,
    data: DataSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rgb, drivable, lane, box = road()
    data.add("a_good", rgb, drivable, lane, [box])
    data.add("b_poor", rgb, drivable[::-1], lane, [box])
    data.add("c_unread", rgb, drivable, lane, [box])
    out = tmp_path / "out" / "result"
    arguments = (toy_bundle, "--data", data.root, "--engine", "openvino", "--limit", 2)
    assert mtc_compress("evaluate", *arguments, "--out", out) == 0
    result = json.loads((out / "metrics.json").read_text())
    assert result["drivable"]["miou"] == pytest.approx(0.5)
    assert result["data"]["images"] == 2
    assert (result["engine"]["name"], result["engine"]["precision"]) == ("openvino", "fp32")
    assert result["model"]["variant"] == "fp32"
    assert re.fullmatch(r"[0-9a-f]{64}", result["model"]["sha256"])
    assert result["latency_ms"] == result["speed"]["latency_ms"]["p50"] > 0
    assert (result["speed"]["runs"], result["speed"]["warm_up_runs"]) == (10, 5)
    assert "threads" in result["engine"]["device"]
    assert result["params"] == 10
    assert result["command"].startswith("mtc-compress evaluate ")
    assert {"machine", "versions", "commit", "time"} <= result.keys()

    page = (out / "report.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert page.index("drivable area: worst") < page.index("b_poor: drivable area, mIoU 0.000")
    assert page.index("drivable area: best") < page.index("a_good: drivable area, mIoU 1.000")
    assert "Conditions" not in page
    assert "c_unread" not in page
    # Precision over recall; then what the three tasks have over thresholds.
    assert page.count("<polyline") == 1 + 3 + 2 + 4
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
    printed = capsys.readouterr().out
    assert "toy (bundle, openvino fp32) on roads val, 2 images" in printed
    assert "0.5000" in printed


def test_command_without_any_label(toy_bundle: Path, data: DataSet, tmp_path: Path) -> None:
    data.add("a", road()[0])
    assert mtc_compress("evaluate", toy_bundle, "--data", data.root, "--out", tmp_path / "o") == 0
    result = json.loads((tmp_path / "o/metrics.json").read_text())
    assert {"detection", "drivable", "lane"} & result.keys() == set()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("nothing.mtc", [], "nothing.mtc does not exist"),
        ("bundle", ["--split", "test"], "has no split 'test'; it has: val"),
        ("bundle", ["--engine", "abacus"], "unknown engine 'abacus'"),
        ("bundle", ["--precision", "int8"], "no int8 variant"),
        ("checkpoint", ["--engine", "openvino"], "export it first"),
        ("bundle", ["--data", "empty"], "no data set"),
        ("bundle", ["--max-detections", "101"], "detections at most"),
        ("checkpoint", ["--precision", "int8"], "evaluated in fp32, not int8"),
        ("broken", [], "does not load"),
        ("empty", [], "manifest.json"),
    ],
)
def test_mistakes_are_one_line(
    model: str,
    options: list[str],
    message: str,
    toy_bundle: Path,
    checkpoint: Path,
    data: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data.add("a", road()[0])
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    shutil.copytree(checkpoint, "broken")
    Path("broken/model.safetensors").write_bytes(b"0123456789")
    path = {"bundle": toy_bundle, "checkpoint": checkpoint}.get(model, tmp_path / model)
    out = tmp_path / "out"
    assert mtc_compress("evaluate", path, "--data", data.root, "--out", out, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_export_takes_the_best_thresholds_from_the_metrics(
    checkpoint: Path,
    toy_bundle: Path,
    data: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rgb, drivable, lane, box = road()
    data.add("a", rgb, drivable, lane, [box])
    data.add("b", rgb[::-1], drivable, lane, [box])
    assert mtc_compress("evaluate", checkpoint, "--data", data.root) == 0
    (metrics,) = Path("out/evaluate").rglob("metrics.json")
    assert metrics.parent.name == "roads_val"
    assert metrics.with_name("report.html").is_file()
    result = json.loads(metrics.read_text())
    best = {task: sweep["best_threshold"] for task, sweep in result["sweep"].items()}

    words = ("export", checkpoint, "a.mtc", "--metrics", metrics, "--lane", 0.35)
    assert mtc_compress(*words) == 0
    manifest = read_bundle("a.mtc").manifest
    assert manifest.thresholds.score == best["detection"]["f1"]
    assert manifest.thresholds.drivable == best["drivable"]["miou"]
    assert manifest.thresholds.lane == 0.35  # by hand
    assert manifest.variants["fp32"].accuracy == {
        task: result[task] for task in ("detection", "drivable", "lane")
    }
    assert "lane 0.35" in capsys.readouterr().out

    # The result of another network is not overwritten.
    words = ("evaluate", toy_bundle, "--data", data.root, "--out", metrics.parent)
    assert mtc_compress(*words) == 2
    assert "another model (checkpoint, not bundle)" in capsys.readouterr().err


def test_an_evaluation_that_answers_nothing_has_failed(
    toy_bundle: Path,
    data: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    data.add("a", road()[0])
    (data.root / "images/val/a.png").write_bytes(b"not a picture")
    assert mtc_compress("evaluate", toy_bundle, "--data", data.root) == 1
    words = capsys.readouterr().err
    assert "a.png: compressed image is neither JPEG, PNG nor WebP" in words
    assert words.endswith("error: none of 1 images could be answered\n")

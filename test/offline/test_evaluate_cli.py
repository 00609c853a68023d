"""`mtc-compress evaluate` and `export` as typed, in processes of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mtc_perception.core.bundle import read_bundle
from support.checkout import ROOT, SHIPPED
from support.labelled_roads import DataSet, road


def run(cwd: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "offline_compress.cli", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    made = DataSet(tmp_path / "roads")
    made.root.mkdir()
    rgb, drivable, lane, box = road()
    made.add("a", rgb, drivable, lane, [box])
    made.add("b", rgb[::-1], drivable, lane, [box])
    return made


@pytest.mark.slow
def test_export_takes_the_best_thresholds_from_the_metrics(
    checkpoint: Path, data: DataSet, tmp_path: Path
) -> None:
    done = run(tmp_path, "evaluate", checkpoint, "--data", data.root)
    assert done.returncode == 0, done.stderr
    (metrics,) = (tmp_path / "out" / "evaluate").rglob("metrics.json")
    assert metrics.parent.name == "roads_val"
    assert metrics.with_name("report.html").is_file()
    result = json.loads(metrics.read_text())
    best = {task: sweep["best_threshold"] for task, sweep in result["sweep"].items()}

    exported = run(tmp_path, "export", checkpoint, "a.mtc", "--metrics", metrics, "--lane", 0.35)
    assert exported.returncode == 0, exported.stderr
    manifest = read_bundle(tmp_path / "a.mtc").manifest
    assert manifest.thresholds.score == best["detection"]["f1"]
    assert manifest.thresholds.drivable == best["drivable"]["miou"]
    assert manifest.thresholds.lane == 0.35  # by hand
    assert manifest.variants["fp32"].accuracy == {
        task: result[task] for task in ("detection", "drivable", "lane")
    }
    assert f"lane {0.35:g}" in exported.stdout

    # The result of another network is not overwritten.
    other = run(tmp_path, "evaluate", SHIPPED, "--data", data.root, "--out", metrics.parent)
    assert_one_line(other, "holds the result of another model (checkpoint, not bundle)")


def assert_one_line(done: "subprocess.CompletedProcess[str]", words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.slow
def test_mistakes_are_one_line_and_exit_2(checkpoint: Path, data: DataSet, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    (broken / "model.safetensors").write_bytes(b"0123456789")
    for model, root, options, words in (
        (broken, data.root, (), "does not load"),
        (tmp_path / "roads", data.root, (), "manifest.json"),
        (SHIPPED, tmp_path, (), "no data set"),
        (SHIPPED, data.root, ("--split", "test"), "has no split 'test'; it has: val"),
        (SHIPPED, data.root, ("--max-detections", 101), "yields 100 detections at most"),
        (checkpoint, data.root, ("--precision", "int8"), "evaluated in fp32, not int8"),
    ):
        done = run(tmp_path, "evaluate", model, "--data", root, *options)
        assert_one_line(done, words)
    assert not (tmp_path / "out").exists()

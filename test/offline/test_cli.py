"""`mtc-compress` from training to a bundle, as a user types it, and what mistakes say."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mtc_perception.core.bundle import read_bundle
from support.checkout import ROOT


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "offline_compress.cli", *map(str, arguments)]


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def roads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "roads"
    done = run("synth", "dataset", out, "--count", 4, "--size", "192x128", "--seed", 5)
    assert done.returncode == 0, done.stderr
    return out


def write_recipe(roads: Path, path: Path, epochs: int) -> Path:
    recipe = yaml.safe_load((ROOT / "config" / "recipes" / "mtc_xs.yaml").read_text())
    source = {"root": str(roads), "split": "train"}
    recipe.update(
        train=[source],
        validate_on=source,
        input={"height": 128, "width": 192},
        crop={"height": 64, "width": 96},
    )
    recipe["schedule"].update(epochs=epochs, samples_per_epoch=8, batch=4)
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.slow
def test_train_evaluate_export_evaluate(roads: Path, tmp_path: Path) -> None:
    recipe = write_recipe(roads, tmp_path / "tiny.yaml", epochs=2000)
    trained = run(
        "train", "--recipe", recipe, "--set", "schedule.epochs=2", "--out", tmp_path / "run"
    )
    assert trained.returncode == 0, trained.stderr
    checkpoint = tmp_path / "run" / "best"
    first = run(
        "evaluate", checkpoint, "--data", roads, "--split", "train", "--out", tmp_path / "a"
    )
    assert first.returncode == 0, first.stderr
    metrics = tmp_path / "a" / "metrics.json"
    exported = run("export", checkpoint, tmp_path / "tiny.mtc", "--metrics", metrics)
    assert exported.returncode == 0, exported.stderr
    manifest = read_bundle(tmp_path / "tiny.mtc").manifest
    assert manifest.training.data == ["roads train"]
    accuracy = manifest.variants["fp32"].accuracy
    assert accuracy is not None
    assert accuracy["lane"] == json.loads(metrics.read_text())["lane"]
    second = run(
        "evaluate",
        tmp_path / "tiny.mtc",
        "--data",
        roads,
        "--split",
        "train",
        "--out",
        tmp_path / "b",
    )
    assert second.returncode == 0, second.stderr
    before, after = (
        json.loads((tmp_path / folder / "metrics.json").read_text()) for folder in "ab"
    )
    for task, figure in (("detection", "map50"), ("drivable", "miou"), ("lane", "iou")):
        assert after[task][figure] == pytest.approx(before[task][figure], abs=0.002)


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_resumes(roads: Path, tmp_path: Path) -> None:
    recipe = write_recipe(roads, tmp_path / "long.yaml", epochs=2000)
    arguments = command("train", "--recipe", recipe, "--out", tmp_path / "run")
    process = subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the same command resumes" in output
    assert "Traceback" not in errors
    assert (tmp_path / "run" / "state.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--recipe", "nowhere.yaml"), "nowhere.yaml does not exist"),
        (
            ("train", "--recipe", "config/recipes/mtc_xs.yaml", "--set", "schedule.epoch=2"),
            "did you mean epochs?",
        ),
        (("export", "nowhere", "x.mtc"), "nowhere is no checkpoint"),
        (("export", "nowhere", "x.mtc", "--metrics", "README.md"), "README.md cannot be read"),
        (("export", "nowhere", "x.mtc", "--score", "1.5"), "less than or equal to 1"),
        (("evaluate", "nowhere", "--data", "x"), "data set data/x does not exist: put there"),
        (("synth", "dataset", "x", "--size", "big"), "big"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr

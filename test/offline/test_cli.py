"""`mtc-compress` from training to a bundle, and what mistakes say."""

import json
from pathlib import Path

import pytest

from mtc_perception.core.bundle import read_bundle
from support.checkout import ROOT
from support.programs import mtc_compress
from support.tiny_training import tiny_recipe


@pytest.mark.slow
def test_train_evaluate_export_evaluate(dataset: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(tiny_recipe(dataset).model_dump_json())
    assert mtc_compress("train", "--recipe", recipe, "--out", tmp_path / "run") == 0
    checkpoint, bundle = tmp_path / "run" / "best", tmp_path / "tiny.mtc"
    data = ("--data", dataset, "--split", "train", "--out")
    assert mtc_compress("evaluate", checkpoint, *data, tmp_path / "a") == 0
    metrics = tmp_path / "a" / "metrics.json"
    assert mtc_compress("export", checkpoint, bundle, "--metrics", metrics) == 0
    manifest = read_bundle(bundle).manifest
    assert manifest.training.data == ["roads train"]
    accuracy = manifest.variants["fp32"].accuracy
    assert accuracy is not None
    assert accuracy["lane"] == json.loads(metrics.read_text())["lane"]
    neutral = ("--score", 0.3, "--drivable", 0.5, "--lane", 0.5)  # As of checkpoints.
    assert mtc_compress("evaluate", bundle, *data, tmp_path / "b", *neutral) == 0
    before, after = (
        json.loads((tmp_path / folder / "metrics.json").read_text()) for folder in "ab"
    )
    for task, figure in (("detection", "map50"), ("drivable", "miou"), ("lane", "iou")):
        assert after[task][figure] == pytest.approx(before[task][figure], abs=0.002)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--recipe", "nowhere.yaml"), "nowhere.yaml does not exist"),
        (
            ("train", "--recipe", "config/recipes/mtc_xs.yaml", "--set", "schedule.epoch=2"),
            "did you mean epochs?",
        ),
        (("export", "nowhere", "x.mtc"), "nowhere does not exist; give the folder of a checkpoint"),
        (("export", "nowhere", "x.mtc", "--metrics", "README.md"), "README.md cannot be read"),
        (("export", "nowhere", "x.mtc", "--score", "1.5"), "less than or equal to 1"),
        (("evaluate", "nowhere", "--data", "x"), "data set data/x does not exist: put there"),
        (("synth", "dataset", "x", "--size", "big"), "big"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("MTC_DATA", raising=False)
    assert mtc_compress(*arguments) == 2
    assert words in capsys.readouterr().err

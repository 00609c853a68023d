"""Every command of `mtc-compress` that writes, twice with something different: nothing is lost."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from mtc_perception.core.bundle import read_bundle
from offline_compress.training.trainer import Trainer
from support.compression_rows import ROWS
from support.programs import mtc_compress
from support.tiny_training import tiny_recipe
from support.toy_bundle import write_toy_bundle

pytestmark = pytest.mark.slow


@pytest.fixture
def here(dataset: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what the commands take, in twos."""
    monkeypatch.chdir(tmp_path)
    for name in ("roads", "others"):
        shutil.copytree(dataset, name)
        shutil.copytree(checkpoint, f"{name}_best")
        write_toy_bundle(tmp_path / name / "toy.mtc", 128, 192)
        Path(f"{name}.yaml").write_text(tiny_recipe(Path(name)).model_dump_json())
        Path(f"run_{name}").mkdir()
        Path(f"run_{name}/result.json").write_text(json.dumps(ROWS[0] | {"name": name}))
    return tmp_path


EVALUATE = ("evaluate", "roads/toy.mtc", "--data", "roads", "--split", "train", "--limit", 2)


@pytest.mark.fault(
    area="offline",
    row="a command writes where the result of another model, data set or setting is",
    answer="Refused with exit code 2; what is there stays. Default places differ.",
    diagnostics="One line that says what is there, and by which option to give another place.",
)
@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (
            (*EVALUATE, "--out", "x"),
            (*EVALUATE, "--score", 0.9, "--out", "x"),
            "another thresholds",
        ),
        (
            (*EVALUATE, "--out", "x"),
            ("evaluate", "others/toy.mtc", *EVALUATE[2:], "--out", "x"),
            "another model (roads/toy.mtc, not others/toy.mtc)",
        ),
        (
            (*EVALUATE, "--out", "x"),
            (*EVALUATE[:3], "others", *EVALUATE[4:], "--out", "x"),
            "another data (roads, not others)",
        ),
        (("export", "roads_best", "x"), ("export", "others_best", "x"), "x exists, with fp32"),
        (
            ("check-data", "roads", "--json", "x"),
            ("check-data", "others", "--json", "x"),
            "data was roads and is others; give another --json",
        ),
        (
            ("report", "run_roads", "--out", "x"),
            ("report", "run_others", "--out", "x"),
            "runs was ['roads'] and is ['others']",
        ),
        (
            ("synth", "dataset", "x", "--count", 1, "--size", "64x64"),
            ("synth", "dataset", "x", "--count", 2, "--size", "64x64"),
            "x exists",
        ),
        (
            ("synth", "bag", "x", "--seconds", 0.1, "--size", "64x64"),
            ("synth", "bag", "x", "--seconds", 0.2, "--size", "64x64"),
            "x exists",
        ),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_a_second_command_loses_nothing(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    first: Sequence[object],
    second: Sequence[object],
    told: str,
) -> None:
    assert mtc_compress(*first) == 0
    made = here / "x"
    files = [made] if made.is_file() else [one for one in made.rglob("*") if one.is_file()]
    before = {path: path.read_bytes() for path in files}
    assert before
    capsys.readouterr()
    assert mtc_compress(*second) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert {path: path.read_bytes() for path in before} == before


def test_a_training_is_not_continued_by_another_recipe(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(tiny_recipe(Path("roads"), {"epochs": 1}), here / "runs" / "tiny").run()
    before = (here / "runs" / "tiny" / "state.pt").read_bytes()
    capsys.readouterr()
    assert mtc_compress("train", "--recipe", "others.yaml") == 2
    assert "different recipe: train.0.root was roads and is others" in capsys.readouterr().err
    assert (here / "runs" / "tiny" / "state.pt").read_bytes() == before


@pytest.mark.usefixtures("here")
def test_export_over_a_bundle_keeps_its_thresholds() -> None:
    words = ("export", "roads_best", "x.mtc")
    assert mtc_compress(*words, "--score", 0.7, "--lane", 0.6) == 0
    assert mtc_compress("export", "others_best", "x.mtc", "--force", "--lane", 0.4) == 0
    thresholds = read_bundle("x.mtc").manifest.thresholds
    assert (thresholds.score, thresholds.drivable, thresholds.lane) == (0.7, 0.5, 0.4)


@pytest.mark.fault(
    area="offline",
    row="the classes of a recipe or network are not the categories of the labels",
    answer="Training, compression, evaluation and assessment are refused.",
    diagnostics="One line with both.",
)
def test_classes_are_the_categories_of_the_labels(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "labels of roads are of {}, which no class takes; the classes are {}"
    train = ("train", "--recipe", "roads.yaml", "--set", "classes=[pedestrian]")
    assert mtc_compress(*train) == 2
    assert told.format("vehicle", "pedestrian") in capsys.readouterr().err
    labels = here / "roads" / "det" / "train.json"
    for name, wanted in (("Pedestrian", "Pedestrian"), ("car", "vehicle"), ("Vehicles", "vehicle")):
        content = json.loads(labels.read_text())
        content["categories"][0]["name"] = name
        labels.write_text(json.dumps(content))
        capsys.readouterr()
        code = mtc_compress(*EVALUATE, "--out", name)
        error = capsys.readouterr().err
        assert code == (0 if wanted == "vehicle" else 2)
        if code:
            assert told.format(wanted, "vehicle") in error
    assert not (here / "runs").exists()

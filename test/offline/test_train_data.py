"""What training learns from and is judged by: samples, masked tasks, validation, score."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mtc_perception.util.errors import UserError
from offline_compress.data.augment import LabelledImage
from offline_compress.data.dataset import TrainingSet, View
from offline_compress.models.registry import load_checkpoint, load_spec
from offline_compress.recipe.parts import DataSource, InputPx
from offline_compress.recipe.recipe import Recipe
from offline_compress.training.trainer import Trainer
from offline_compress.training.validation import score, validation_sets, validator
from support.tiny_training import tiny_recipe


def judged_by(*roots: Path) -> Recipe:
    sources = [{"root": str(root), "split": "train"} for root in roots]
    return tiny_recipe(roots[0], validate_on=sources)


def test_a_training_begins_with_what_it_is_about_to_do(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(dataset, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "lane")
    next((tmp_path / "bare" / "drivable" / "train").iterdir()).unlink()
    sources = [
        {"root": str(root), "split": "train", "weight": weight}
        for root, weight in ((dataset, 3.0), (tmp_path / "bare", 1.0))
    ]
    recipe = tiny_recipe(dataset, train=sources, validate_on=sources[:1])
    trainer = Trainer(recipe, tmp_path / "run")
    parameters = sum(parameter.numel() for parameter in trainer.learner.model.parameters())
    trainer.run()
    told = capsys.readouterr().out.splitlines()[:8]
    assert told[0] == (
        f"network      tiny: {parameters / 1e6:.2f} M parameters, for 192x128, from random weights"
    )
    name = dataset.name
    assert told[1:5] == [
        f"learns from  {name} train: 6 images with boxes, drivable, lane; 75% of the samples",
        "learns from  bare train: 6 images with boxes, drivable in 5; 25% of the samples",
        "classes      vehicle: vehicle",
        f"judged by    {name}: 6 images with boxes, drivable, lane",
    ]
    assert re.fullmatch(r"computes     CPU, \d+ threads?, (bf16|fp32)", told[5])
    assert told[6].startswith("for          2 epochs of 8 samples, batch 4;")
    assert told[7] == f"into         {tmp_path / 'run'}"


def test_what_no_data_teaches_is_said(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(dataset, tmp_path / "boxes")
    for task in ("drivable", "lane"):
        shutil.rmtree(tmp_path / "boxes" / task)
    source = {"root": str(tmp_path / "boxes"), "split": "train"}
    recipe = tiny_recipe(dataset, train=[source], validate_on=[source])
    Trainer(recipe, tmp_path / "run").run()
    told = capsys.readouterr().out
    assert "learns not   drivable, lane: no labels, so answers will mean nothing" in told
    further = tiny_recipe(
        dataset, train=[source], validate_on=[source], start_from=str(tmp_path / "run" / "last")
    )
    Trainer(further, tmp_path / "further").run()
    told = capsys.readouterr().out
    assert "learns not   drivable, lane: no labels, so what it knew may fade" in told


def test_validation_is_that_of_evaluate(dataset: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe(dataset), tmp_path)
    ticks: list[tuple[int, int]] = []
    metrics = trainer.validate(
        trainer.learner.averaged(), trainer.spec, lambda *done: ticks.append(done)
    )
    assert metrics["drivable"]["images"] == 6
    assert ticks == [(done, 6) for done in range(6)]
    assert 0 <= score(metrics) <= 1


def test_a_validation_set_without_labels_is_found_before_training(
    dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(dataset / "images", tmp_path / "bare" / "images")
    with pytest.raises(UserError, match=r"no labels to validate on: `mtc-compress check-data"):
        validation_sets(judged_by(tmp_path / "bare"))


def test_a_validation_set_that_is_missing_is_found_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        validation_sets(judged_by(tmp_path / "nowhere"))


def test_several_validation_sets_count_alike(
    dataset: Path, tmp_path: Path, checkpoint: Path
) -> None:
    """One set of six images, one of two without lanes: each alone, and the mean of both."""
    shutil.copytree(dataset, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "lane")
    for image in sorted((tmp_path / "other" / "images" / "train").iterdir())[2:]:
        image.unlink()
    roots = [dataset, tmp_path / "other"]
    spec, model = load_spec(checkpoint), load_checkpoint(checkpoint)
    ticks: list[tuple[float, float | None]] = []

    def metrics(*chosen: Path) -> dict[str, Any]:
        ticks.clear()
        sets = validation_sets(judged_by(*chosen))
        return validator(sets)(model, spec, lambda *done: ticks.append(done))

    alone = [metrics(root) for root in roots]
    both = metrics(*roots)
    assert ticks == [(done, 8) for done in range(8)]
    assert list(both["sets"].values()) == alone
    assert [one["drivable"]["images"] for one in alone] == [6, 2]
    assert both["drivable"]["miou"] == pytest.approx(
        sum(one["drivable"]["miou"] for one in alone) / 2
    )
    assert both["lane"]["iou"] == alone[0]["lane"]["iou"]
    assert score(both) == pytest.approx(sum(map(score, alone)) / 2)


def test_samples_depend_on_their_number_alone(dataset: Path) -> None:
    size = InputPx(height=64, width=96)
    source = DataSource(root=dataset, split="train")
    first, second = (
        TrainingSet([source], size, {0: View(size, (0.8, 1.2))}, seed=5) for _ in range(2)
    )
    list(second.decoded.fill())
    for number in (7, 3, 7):
        torch.testing.assert_close(first[number].image, second[number].image)


def test_missing_tasks_are_masked_not_negative(dataset: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "images").symlink_to(dataset / "images")
    size = InputPx(height=64, width=96)

    def first_sample() -> LabelledImage:
        source = DataSource(root=bare, split="train")
        return TrainingSet([source], size, {0: View(size)}, seed=0)[0]

    with pytest.raises(UserError, match="no labels to train on: `mtc-compress check-data"):
        first_sample()
    (bare / "det").symlink_to(dataset / "det")
    sample = first_sample()
    assert sample.has_boxes
    assert (sample.lane == 255).all()
    assert (sample.drivable == 255).all()
    (bare / "det").unlink()
    (bare / "lane").symlink_to(dataset / "lane")
    sample = first_sample()
    assert not sample.has_boxes
    assert (sample.lane < 255).any()
    assert (sample.drivable == 255).all()


def test_the_score_is_over_the_labelled_tasks() -> None:
    lane = {"lane": {"iou": 0.4}}
    assert score(lane) == pytest.approx(0.4)
    nothing_found = {
        "detection": {"map50": None, "map50_95": None, "best_f1": None},
        "drivable": {"miou": 0.8},
    }
    assert score({**lane, **nothing_found}) == pytest.approx(0.6)
    with pytest.raises(UserError, match="no labels"):
        score({})

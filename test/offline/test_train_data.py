"""What training learns from and is judged by: samples, masked tasks, validation, score."""

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
from offline_compress.training.trainer import Trainer
from offline_compress.training.validation import score, validator
from support.tiny_training import tiny_recipe


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
        validator([DataSource(root=tmp_path / "bare", split="train")])


def test_a_validation_set_that_is_missing_is_found_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        validator([DataSource(root=tmp_path / "nowhere", split="val")])


def test_several_validation_sets_count_alike(
    dataset: Path, tmp_path: Path, checkpoint: Path
) -> None:
    """One set of six images, one of two without lanes: each alone, and the mean of both."""
    shutil.copytree(dataset, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "lane")
    for image in sorted((tmp_path / "other" / "images" / "train").iterdir())[2:]:
        image.unlink()
    sources = [DataSource(root=root, split="train") for root in (dataset, tmp_path / "other")]
    spec, model = load_spec(checkpoint), load_checkpoint(checkpoint)
    ticks: list[tuple[float, float | None]] = []

    def metrics(*chosen: DataSource) -> dict[str, Any]:
        ticks.clear()
        return validator(chosen)(model, spec, lambda *done: ticks.append(done))

    alone = [metrics(source) for source in sources]
    both = metrics(*sources)
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

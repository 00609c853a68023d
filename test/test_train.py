"""Training for real on a tiny data set: it learns, resumes exactly, and refuses nonsense."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from mtc_perception.errors import UserError
from offline_compress.data.dataset import TrainingSet
from offline_compress.data.synth_dataset import write_dataset
from offline_compress.models.registry import ModelSpec, load_checkpoint
from offline_compress.recipe import DataSource, Recipe, SizePx, load_recipe
from offline_compress.train import LOG_FILE, Trainer, learning_rate, score


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "roads"
    write_dataset(root, 6, 192, 128, seed=3, workers=1)
    return root


def recipe(dataset: Path, **schedule: Any) -> Recipe:
    source = {"root": str(dataset), "split": "train"}
    return Recipe.model_validate(
        {
            "name": "tiny",
            "model": "mtc_nano",
            "classes": ["vehicle"],
            "input": {"height": 128, "width": 192},
            "crop": {"height": 64, "width": 96},
            "train": [source],
            "validate_on": source,
            "schedule": {
                "epochs": 2,
                "samples_per_epoch": 8,
                "batch": 4,
                "learning_rate": 0.002,
                "weight_decay": 0.01,
                "warmup_epochs": 0.5,
                "ema_decay": 0.9,
                "validate_every_epochs": 1,
                **schedule,
            },
            "licence": "test",
        }
    )


def fixed_metrics(_model: nn.Module, _spec: ModelSpec) -> dict[str, Any]:
    return {
        "detection": {"recall": 0.5, "map50": 0.5},
        "drivable": {"miou": 0.5},
        "lane": {"iou": 0.5},
    }


def test_it_learns(dataset: Path, tmp_path: Path) -> None:
    trainer = Trainer(recipe(dataset, epochs=6, samples_per_epoch=24), tmp_path, fixed_metrics)
    trainer.run()
    rows = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for task in ("detection", "drivable"):
        assert rows[-1]["loss"][task] < rows[0]["loss"][task]
    assert load_checkpoint(tmp_path / "best").training is False


def test_an_interrupted_run_resumes_to_the_same_weights(dataset: Path, tmp_path: Path) -> None:
    whole = Trainer(recipe(dataset), tmp_path / "whole", fixed_metrics)
    whole.run()

    class Interrupted(Trainer):
        def train_step(self, images: torch.Tensor, targets: Any) -> Any:
            if self.step == 2:
                signal.raise_signal(signal.SIGINT)
            return super().train_step(images, targets)

    with pytest.raises(KeyboardInterrupt):
        Interrupted(recipe(dataset), tmp_path / "parts", fixed_metrics).run()
    rest = Trainer(recipe(dataset), tmp_path / "parts", fixed_metrics)
    assert rest.step == 3
    rest.run()
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(rest.model.state_dict()[key], value, msg=key)


def test_a_run_may_start_from_a_checkpoint(dataset: Path, tmp_path: Path) -> None:
    first = Trainer(recipe(dataset), tmp_path / "first", fixed_metrics)
    first.run()
    start = {"start_from": tmp_path / "first" / "last"}
    second = Trainer(recipe(dataset).model_copy(update=start), tmp_path / "second", fixed_metrics)
    for key, value in first.averaged().state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[key], value, msg=key)
    second.run()
    shutil.rmtree(tmp_path / "first")
    again = Trainer(recipe(dataset).model_copy(update=start), tmp_path / "second", fixed_metrics)
    assert again.spec == second.spec
    assert second.spec.data == ["roads train"]
    assert len(second.spec.lineage) == 2
    assert second.spec.lineage[0].endswith("from scratch")


def test_a_run_of_another_recipe_is_not_continued(dataset: Path, tmp_path: Path) -> None:
    Trainer(recipe(dataset, epochs=1), tmp_path, fixed_metrics).run()
    with pytest.raises(UserError, match="different recipe"):
        Trainer(recipe(dataset, epochs=3), tmp_path, fixed_metrics)


def test_a_diverging_run_stops_with_advice(dataset: Path, tmp_path: Path) -> None:
    trainer = Trainer(recipe(dataset), tmp_path, fixed_metrics)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="learning_rate"):
        trainer.run()


def test_samples_depend_on_their_number_alone(dataset: Path) -> None:
    size = SizePx(height=64, width=96)
    source = DataSource(root=dataset, split="train")
    first, second = (TrainingSet([source], size, size, (0.8, 1.2), seed=5) for _ in range(2))
    list(second.preload())
    for number in (7, 3, 7):
        torch.testing.assert_close(first[number].image, second[number].image)


def test_missing_tasks_are_masked_not_negative(dataset: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "images").symlink_to(dataset / "images")
    size = SizePx(height=64, width=96)
    sample = TrainingSet([DataSource(root=bare, split="train")], size, size, (1.0, 1.0), seed=0)[0]
    assert not sample.has_boxes
    assert (sample.lane == 255).all()
    assert (sample.drivable == 255).all()


def test_schedule_warms_up_and_decays(dataset: Path) -> None:
    schedule = recipe(dataset).schedule
    rates = [learning_rate(schedule, step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(schedule.learning_rate / 10)
    assert max(rates) == pytest.approx(schedule.learning_rate)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.02 * schedule.learning_rate


def test_the_score_is_over_the_labelled_tasks() -> None:
    lane = {"lane": {"iou": 0.4}}
    assert score(lane) == pytest.approx(0.4)
    nothing_found = {"detection": {"recall": None, "map50": None}, "drivable": {"miou": 0.8}}
    assert score({**lane, **nothing_found}) == pytest.approx(0.6)
    with pytest.raises(UserError, match="no labels"):
        score({})


def test_recipes_in_the_repository_are_valid() -> None:
    folder = Path(__file__).parent.parent / "config" / "recipes"
    recipes = [load_recipe(path) for path in folder.glob("*.yaml")]
    assert {recipe.name for recipe in recipes} == {"mtc_nano", "mtc_nano_tuned"}


def test_wrong_recipes_name_the_field(dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(path)
    path.write_text("a: [")
    with pytest.raises(UserError, match="no YAML"):
        load_recipe(path)
    content = json.loads(recipe(dataset).model_dump_json())
    content["schedule"]["batch"] = 0
    content["colour"] = "red"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"schedule\.batch.*colour"):
        load_recipe(path)

"""Recipes: those of the repository are valid, and mistakes are named in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_training import tiny_recipe

from mtc_perception.errors import UserError
from offline_compress.models.registry import MODELS
from offline_compress.recipe import load_recipe

FOLDER = Path(__file__).parent.parent / "config" / "recipes"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_in_the_repository_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.model in MODELS


@pytest.mark.parametrize(
    ("place", "key", "words"),
    [
        ((), "colour", "colour: no such field; known: name, model"),
        ((), "scale_jiter", "did you mean scale_jitter?"),
        (("schedule",), "leaning_rate", "schedule.leaning_rate: no such field; did you mean lear"),
        (("train", 0), "wieght", "train.0.wieght: no such field; did you mean weight?"),
        (("input",), "heigth", "input.heigth: no such field; did you mean height?"),
    ],
)
def test_a_wrong_key_is_named_with_the_closest_valid_one(
    tmp_path: Path, place: tuple[Any, ...], key: str, words: str
) -> None:
    content = json.loads(tiny_recipe(tmp_path).model_dump_json())
    part = content
    for step in place:
        part = part[step]
    part[key] = 1
    message = complaint(tmp_path, yaml.safe_dump(content))
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("schedule", "batch"), 0, "schedule.batch: Input should be greater than 0"),
        (("schedule", "patience_epochs"), 0, "schedule.patience_epochs"),
        (("precision",), "fp8", "precision: Input should be 'auto', 'fp32', 'bf16' or 'fp16'"),
        (("mask_loss",), "hinge", "mask_loss"),
        (("mosaic",), 1.5, "mosaic: Input should be less than or equal to 1"),
        (("name",), "../elsewhere", "name"),
        (("crop", "height"), 100, "crop.height: Input should be a multiple of 32"),
        (("train",), [], "train"),
        (("classes",), ["vehicle", "person"], "classes"),
        (("scale_jitter",), [1.7, 0.6], "the least scale 1.7 is above the greatest 0.6"),
        (("schedule", "warmup_epochs"), 2, "schedule.warmup_epochs must be less than epochs (2)"),
    ],
)
def test_a_wrong_value_is_named(
    tmp_path: Path, place: tuple[str, ...], value: Any, words: str
) -> None:
    content = json.loads(tiny_recipe(tmp_path).model_dump_json())
    part = content
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    assert words in complaint(tmp_path, yaml.safe_dump(content))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    content = json.loads(tiny_recipe(tmp_path).model_dump_json())
    content["schedule"]["batch"] = 0
    del content["licence"]
    message = complaint(tmp_path, yaml.safe_dump(content))
    assert "schedule.batch" in message
    assert "licence" in message


def test_no_recipe_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(tmp_path)
    assert "no YAML" in complaint(tmp_path, "a: [")
    assert "file: Input should be" in complaint(tmp_path, "")


def complaint(folder: Path, text: str) -> str:
    path = folder / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        load_recipe(path)
    return str(raised.value)

"""Recipes: those of the repository are valid, mistakes are named in one line, and what follows from
a recipe (fields set by hand, the recovery of a pruned network) is what it says."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from mtc_perception.util.errors import UserError
from offline_compress.models.registry import MODELS, ModelSpec, save_checkpoint
from offline_compress.recipe.compression import Distillation, Pruning
from offline_compress.recipe.parts import DataSource, set_names
from offline_compress.recipe.recipe import Recipe, load_recipe
from offline_compress.training.recovery import recover_between_recipe, recover_recipe
from support.checkout import ROOT
from support.tiny_networks import TINY
from support.tiny_training import tiny_recipe

FOLDER = ROOT / "config" / "recipes"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_in_the_repository_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.model in MODELS


@pytest.mark.parametrize("path", sorted(FOLDER.glob("rmt_*.yaml")), ids=lambda path: path.stem)
def test_query_decoders_end_on_crops_as_large_as_their_input(path: Path) -> None:
    """Their boxes are fractions of what they see: of small crops alone they would not fit."""
    recipe = load_recipe(path)
    if path.stem == "rmt_ppad_n_start":  # rmt_ppad_n goes on with it.
        return
    size = recipe.input.height, recipe.input.width
    endings = [(recipe.crop, recipe.closing)]
    if recipe.compress:
        recover = recipe.compress.recover
        endings.append((recover.crop or recipe.crop, recover.closing or recipe.closing))
    for crop, closing in endings:
        last = (closing and closing.crop) or crop
        assert (last.height, last.width) == size


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
        (("closing",), {"epochs": 2}, "closing.epochs must be less than epochs (2)"),
        (("name",), "../elsewhere", "name"),
        (("crop", "height"), 100, "crop.height: Input should be a multiple of 32"),
        (("train",), [], "train"),
        (("classes",), "vehicle", "classes: write names, as"),
        (("classes",), {"vehicle": "car"}, "classes: write names, as"),
        (("classes",), ["vehicle", "vehicle"], "classes: a class name occurs twice"),
        (("scale_jitter",), [1.7, 0.6], "scale_jitter: the least 1.7 is above the greatest 0.6"),
        (("schedule", "warmup_epochs"), 2, "schedule: warmup_epochs must be less than epochs (2)"),
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


def test_a_single_validation_set_needs_no_list(tmp_path: Path) -> None:
    content = json.loads(tiny_recipe(tmp_path).model_dump_json())
    one, other = ({"root": "a/roads", "split": split} for split in ("val", "test"))
    assert Recipe.model_validate(content | {"validate_on": one}) == Recipe.model_validate(
        content | {"validate_on": [one]}
    )
    several = Recipe.model_validate(content | {"validate_on": [one, other], "tune_on": other})
    assert several.tuning == several.validate_on[1:]
    assert Recipe.model_validate(content | {"validate_on": other}).tuning == several.validate_on[1:]
    assert "validate_on: Value should have at least 1" in complaint(
        tmp_path, yaml.safe_dump(content | {"validate_on": []})
    )


def test_every_data_set_has_a_name_of_its_own() -> None:
    def names(*places: str) -> list[str]:
        roots, splits = zip(*(place.rsplit(":") for place in places), strict=True)
        return set_names(
            [DataSource(root=Path(a), split=b) for a, b in zip(roots, splits, strict=True)]
        )

    assert names("a/roads:val") == ["roads"]
    assert names("a/roads:val", "a/town:val") == ["roads", "town"]
    assert names("a/roads:val", "a/roads:test", "b:val") == ["roads val", "roads test", "b"]
    assert names("a/roads:val", "b/roads:val") == ["roads val 1", "roads val 2"]


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


def compressed(folder: Path, **parts: Any) -> dict[str, Any]:
    """Content of a recipe with a `compress` section of which `parts` are replaced."""
    content: dict[str, Any] = json.loads(tiny_recipe(folder).model_dump_json(exclude_none=True))
    schedule = content["schedule"] | {"epochs": 4}
    section = {"prune": {"budget": {"macs": 0.5}}, "recover": {"schedule": schedule}}
    return content | {"compress": section | parts}


def test_fields_are_set_before_the_recipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(compressed(tmp_path)))
    recipe = load_recipe(
        path,
        [
            "schedule.learning_rate=2e-3",
            "compress.prune.budget={parameters: 0.4}",
            "compress.prune.protect=[lane_head, encoder]",
            "compress.scoring.images=32",
            "train.0.weight=0.5",
            "arguments.lane=16",
            "compress.prune.decoder_layers=",
            "compress.prune.criterion=joint",
            "compress.prune.criterion=random",
        ],
    )
    assert recipe.compress
    prune = recipe.compress.prune
    assert recipe.schedule.learning_rate == 0.002
    assert (prune.budget.macs, prune.budget.parameters) == (None, 0.4)
    assert prune.protect == ("lane_head", "encoder")
    assert recipe.compress.scoring.images == 32
    assert recipe.train[0].weight == 0.5
    assert recipe.arguments == {"lane": 16}
    assert (prune.decoder_layers, prune.criterion) == (None, "random")
    path.write_text(yaml.safe_dump(json.loads(tiny_recipe(tmp_path).model_dump_json())))
    distilled = load_recipe(path, ["distillation.teacher=runs/mtc_s/best"])
    assert distilled.distillation
    assert distilled.distillation.teacher == Path("runs/mtc_s/best")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed", "--set seed: write FIELD=VALUE, as in schedule.epochs=20"),
        ("=3", "--set =3: write FIELD=VALUE"),
        ("seed=[1", "--set seed=[1: [1 is no YAML value"),
        ("name.first=a", "--set name.first=a: name has no fields"),
        ("train.1.weight=1", "--set train.1.weight=1: train has the entries 0 to 0"),
        ("train.first=1", "train has the entries 0 to 0"),
        ("compress.prun.round_to=8", "compress.prun: no such field; did you mean prune?"),
        ("compress.prune.round_to=6", "compress.prune.round_to: Input should be 1, 4, 8, 16"),
        ("compress.prune.budget.macs=1.5", "compress.prune.budget.macs: Input should be less"),
        ("compress.prune.budget={}", "compress.prune.budget: give at least one of parameters"),
        ("compress.recover.scale_jitter=[2, 1]", "compress.recover.scale_jitter: the least 2.0"),
        ("compress.recover.schedule.epochs=0", "compress.recover.schedule.epochs: Input should"),
        ("distillation={}", "distillation.teacher: Field required"),
        ("shape_of=a", "start_from, backbone_weights and shape_of exclude each other"),
    ],
)
def test_a_wrong_change_is_named(tmp_path: Path, change: str, words: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(compressed(tmp_path) | {"start_from": "b"}))
    with pytest.raises(UserError) as raised:
        load_recipe(path, [change])
    assert words in str(raised.value)


def checkpoint(folder: Path, **arguments: Any) -> Path:
    """A checkpoint of the miniature network with some arguments changed."""
    architecture, known = "conv_multitask", TINY | arguments
    spec = ModelSpec("tiny", architecture, known, ["vehicle"], 128, 192)
    save_checkpoint(folder, spec, spec.build())
    return folder


def test_recovery_is_the_recipe_with_what_it_says(tmp_path: Path) -> None:
    pruned = checkpoint(tmp_path / "pruned", lane=16)
    recover = compressed(tmp_path)["compress"]["recover"] | {
        "crop": {"height": 96, "width": 128},
        "distillation": 0.5,
    }
    content = compressed(tmp_path, recover=recover) | {
        "start_from": "elsewhere",
        "mosaic": 0.5,
        "closing": {"epochs": 1},
        "distillation": {"teacher": "grandmother"},
    }
    recipe = Recipe.model_validate(content)
    found = recover_recipe(recipe, pruned, tmp_path / "teacher")
    changed = {
        *("name", "arguments", "schedule", "crop", "start_from", "distillation", "compress"),
    }
    assert found.model_dump(exclude=changed) == recipe.model_dump(exclude=changed)
    assert found.name == "tiny-recovered"
    assert found.arguments["lane"] == 16
    assert (found.schedule.epochs, found.crop.width) == (4, 128)
    assert (found.start_from, found.compress) == (pruned, None)
    assert found.distillation == Distillation(teacher=tmp_path / "teacher", weight=0.5)
    scratch = {"compress": content["compress"] | {"recover": recover | {"from_scratch": True}}}
    control = recover_recipe(Recipe.model_validate(content | scratch), pruned, tmp_path)
    assert (control.start_from, control.shape_of) == (None, pruned)
    alone = {"compress": content["compress"] | {"recover": recover | {"distillation": 0}}}
    assert (
        recover_recipe(Recipe.model_validate(content | alone), pruned, pruned).distillation is None
    )
    with pytest.raises(UserError, match="tiny says nothing about compression"):
        recover_recipe(tiny_recipe(tmp_path), pruned, pruned)
    with pytest.raises(UserError, match="is no checkpoint"):
        recover_recipe(recipe, tmp_path, pruned)


def test_recovery_between_steps_is_short(tmp_path: Path) -> None:
    pruned = checkpoint(tmp_path / "pruned")
    section = compressed(tmp_path)["compress"]
    section["recover"]["from_scratch"] = True
    section["recover"]["schedule"] |= {"samples_per_epoch": 32, "patience_epochs": 2}
    content = compressed(tmp_path) | {"mosaic": 0.5, "compress": section}
    content["closing"] = {"epochs": 1, "crop": {"height": 32, "width": 96}}
    recipe = Recipe.model_validate(content)
    found = recover_between_recipe(recipe, pruned, pruned, 3)
    schedule = found.schedule
    assert (schedule.epochs, schedule.samples_per_epoch, schedule.patience_epochs) == (1, 16, None)
    assert (found.start_from, found.shape_of) == (pruned, None)
    assert (found.name, found.seed) == ("tiny-step3", recipe.seed + 3)
    # No longer than what closes the training, it is all of it.
    assert (found.mosaic, found.crop.width, found.closing) == (0, 96, None)
    assert found.scale_jitter == recipe.scale_jitter
    # Pruning may be taught where the recovery is not.
    section["recover"]["distillation"], section["prune"]["distillation"] = 0, 0.5
    recipe = Recipe.model_validate(content)
    assert recover_recipe(recipe, pruned, pruned).distillation is None
    taught = recover_between_recipe(recipe, pruned, pruned, 3).distillation
    assert taught is not None
    assert taught.weight == 0.5
    # What else is taught is the same in both.
    section["recover"]["distillation"] = {"weight": 2, "foreground": 0.5, "masks": 0.3, "decay": 0}
    recipe = Recipe.model_validate(content)
    taught = recover_between_recipe(recipe, pruned, pruned, 3).distillation
    lessons = {"foreground": 0.5, "masks": 0.3, "decay": 0}
    assert taught == Distillation(teacher=pruned, weight=0.5, **lessons)
    taught = recover_recipe(recipe, pruned, pruned).distillation
    assert taught == Distillation(teacher=pruned, weight=2, **lessons)


def test_a_fifo_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.yaml")
    with pytest.raises(UserError, match="not a regular file"):
        load_recipe(tmp_path / "r.yaml")


def complaint(folder: Path, text: str) -> str:
    path = folder / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        load_recipe(path)
    return str(raised.value)


@pytest.mark.parametrize(
    ("budget", "cost"),
    [
        ({"parameters": 0.5}, "parameters"),
        ({"parameters": 0.5, "macs": 0.5}, "macs"),
        ({"macs": 0.5, "latency": 0.5}, "latency"),
    ],
)
def test_cost_is_what_the_budget_limits_unless_said_otherwise(
    budget: dict[str, float], cost: str
) -> None:
    assert Pruning.model_validate({"budget": budget}).cost == cost
    assert Pruning.model_validate({"budget": budget, "cost": "none"}).cost == "none"
    again = Pruning.model_validate(Pruning.model_validate({"budget": budget}).model_dump())
    assert again.cost == cost
    with pytest.raises(ValidationError) as raised:
        Pruning.model_validate({"budget": {}})
    assert len(raised.value.errors()) == 1

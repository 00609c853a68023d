"""Recipes: validated YAML files that say everything a training run depends on."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from mtc_perception.core.bundle import Name
from mtc_perception.core.class_map import ClassMap
from mtc_perception.util.errors import UserError
from mtc_perception.util.strict import Strict
from offline_compress.recipe.compression import Compression, Distillation, Quantisation
from offline_compress.recipe.parts import (
    Closing,
    DataSource,
    DataSources,
    Fraction,
    InputPx,
    NotNegative,
    Range,
    Schedule,
    SizePx,
)
from offline_compress.recipe.yaml_file import read_yaml

_QUANTISE = "compress.quantise"


class Recipe(Strict):
    """A training run."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """Also the folder of the run under runs/."""
    model: str
    """Of the registry, models/registry.py."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the model to replace, e.g. `segmentation: full` of rmt_ppad_l."""
    classes: Annotated[list[Name] | dict[Name, list[str]], Field(min_length=1)]
    """Names of the detection classes, or of each the categories of labels that it takes. In a list
    each takes the category of its name; `vehicle` takes every kind of vehicle."""
    ignore: list[str] | None = None
    """Categories of labels that are no targets, and no false alarms where they are found. None:
    odd kinds of vehicles, where `vehicle` is in a list of classes."""
    background: list[str] | Literal["rest"] | None = None
    """Categories of labels that are nothing to be found; rest: all that are not named. None: the
    rest, where the list of classes is `vehicle` alone."""
    input: InputPx
    """What the network is made for."""
    crop: SizePx
    """What it sees of an image in training, at about the deployed scale."""
    scale_jitter: Range = (0.6, 1.7)
    """Least and greatest random scale of a training image, relative to the deployed scale."""
    mosaic: Fraction = 0.0
    """Share of the samples that are put together from four images."""
    closing: Closing | None = None
    """The last epochs see what the vehicle sees, where those before see small crops or mosaics."""
    bonnet: Fraction = 0.0
    """Share of the images into which something of the own car is painted, see data/bonnet.py."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of all that is random: first weights, samples, augmentation."""
    start_from: Path | None = None
    """Checkpoint whose weights training starts from; none: random weights."""
    backbone_weights: Path | None = None
    """File with pretrained weights of the backbone (see models/pretrained.py), or none."""
    train: Annotated[list[DataSource], Field(min_length=1)]
    """What samples are drawn from."""
    validate_on: Annotated[DataSources, Field(min_length=1)]
    """The best epoch is the one with the best mean over these sets."""
    tune_on: DataSources = Field(default_factory=list)
    """What the bundle's thresholds are chosen on; none: `validate_on`."""
    mask_loss: Literal["dice", "focal"] = "dice"
    """Of the drivable area and the lanes: see losses/mask_losses.py."""
    schedule: Schedule
    """How it is optimised."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the forward pass; weights are always fp32. auto: bf16 where the machine computes in it,
    else fp16 on a GPU and fp32 on a CPU."""
    deterministic: bool = False
    """Only algorithms of cuDNN that give the same numbers every time, at some cost. Not all that
    networks compute on a GPU has one; on a CPU everything is deterministic."""
    checkpoint_minutes: NotNegative = 5.0
    """Time between two saves of the run; 0: after every step."""
    licence: str
    """Licence of the weights that follows from the training data; copied into the bundle."""
    shape_of: Path | None = None
    """Pruned checkpoint whose shape is trained from random weights, or none. (A run that starts
    from a pruned checkpoint has its shape.)"""
    distillation: Distillation | None = None
    """A teacher that is learnt from as well, or none."""
    compress: Compression | None = None
    """What `mtc-compress run` does with the trained network; `train` reads past it."""

    @property
    def class_map(self) -> ClassMap:
        """The classes, and which categories of labels they take."""
        said = {"ignore": self.ignore, "background": self.background}
        if isinstance(self.classes, dict):
            content: dict[str, Any] = {"classes": self.classes}
        else:
            content = ClassMap.of(self.classes).model_dump()
        known = {name: one for name, one in said.items() if one is not None}
        return ClassMap.model_validate(content | known)

    @property
    def tuning(self) -> list[DataSource]:
        """The data sets that thresholds are chosen on."""
        return self.tune_on or self.validate_on

    def compression(self) -> Compression:
        """What `compress` says. Raises UserError for a recipe without."""
        if self.compress is None:
            raise UserError(
                f"recipe {self.name} says nothing about compression: add `compress`, see "
                "docs/compression.md"
            )
        return self.compress

    @field_validator("classes", mode="before")
    @classmethod
    def _names_of_classes(cls, content: Any) -> Any:
        listed = content if isinstance(content, list) else None
        taken = list(content.values()) if isinstance(content, dict) else None
        if listed is not None and all(isinstance(one, str) for one in listed):
            return content
        if taken is not None and all(isinstance(one, list) for one in taken):
            return content
        raise ValueError(
            "write names, as [vehicle], or the labels of each, as {vehicle: [car, van]}, "
            f"not {content}"
        )

    @model_validator(mode="after")
    def _each_category_once(self) -> "Recipe":
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: a class name occurs twice")
        try:
            _ = self.class_map
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    @model_validator(mode="after")
    def _one_start(self) -> "Recipe":
        if sum(map(bool, (self.start_from, self.backbone_weights, self.shape_of))) > 1:
            raise ValueError("start_from, backbone_weights and shape_of exclude each other")
        return self

    @model_validator(mode="after")
    def _closing_follows(self) -> "Recipe":
        if self.closing and self.closing.epochs >= self.schedule.epochs:
            raise ValueError(f"closing.epochs must be less than epochs ({self.schedule.epochs})")
        return self


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe; relative data roots are taken from the working directory.

    Args:
        path: YAML file.
        changes: fields to set beforehand, as `place=value`: the place dotted, a part that is
            missing is made (`compress.prune.budget.macs=0.5`, `train.0.weight=1`), the value YAML.

    Raises UserError naming the file and every wrong field.
    """
    content = read_yaml(path, "recipe")
    for change in changes:
        _change(content, change)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(_complaint(e["type"], e["loc"], e["msg"]) for e in error.errors())
        raise UserError(f"recipe {path}: {wrong}") from None


def changes_of(fields: Mapping[str, Any]) -> list[str]:
    """Fields by dotted name as the changes that `load_recipe` and `--set` take."""
    return [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in fields.items()
    ]


def quantisation(changes: Sequence[str]) -> Quantisation:
    """`compress.quantise` with these changes, without a recipe. Raises UserError for a wrong one,
    and for one of anything else."""
    content: dict[str, Any] = {}
    for change in changes:
        _change(content, change)
        if not change.startswith(f"{_QUANTISE}."):
            raise UserError(f"--set {change}: without a recipe there is {_QUANTISE} alone")
    try:
        return Quantisation.model_validate(content.get("compress", {}).get("quantise", {}))
    except ValidationError as error:
        place = tuple(_QUANTISE.split("."))
        wrong = [_complaint(e["type"], (*place, *e["loc"]), e["msg"]) for e in error.errors()]
        raise UserError(f"--set {'; '.join(wrong)}") from None


def _change(content: Any, change: str) -> None:
    """Set one field of a recipe's content in place."""
    name, equals, text = change.partition("=")
    if not (name and equals):
        raise UserError(f"--set {change}: write FIELD=VALUE, as in schedule.epochs=20")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {change}: {text} is no YAML value") from None
    part, (*way, last) = content, name.split(".")
    for depth, step in enumerate(way):
        key = _key(part, step, change, way[:depth])
        if isinstance(part, dict) and part.get(key) is None:
            part[key] = {}
        part = part[key]
    part[_key(part, last, change, way)] = value


def _key(part: Any, step: str, change: str, place: Sequence[str]) -> str | int:
    """What indexes the part of a recipe at `place`. Raises UserError if nothing can."""
    where = ".".join(place) or "the recipe"
    if isinstance(part, dict):
        return step
    if not isinstance(part, list):
        raise UserError(f"--set {change}: {where} has no fields")
    if not step.isdecimal() or int(step) >= len(part):
        raise UserError(f"--set {change}: {where} has the entries 0 to {len(part) - 1}")
    return int(step)


def _complaint(kind: str, place: Sequence[int | str], message: str) -> str:
    name = ".".join(map(str, place)) or "file"
    if kind != "extra_forbidden":
        return f"{name}: {message.removeprefix('Value error, ')}"
    known = _fields_at(place[:-1])
    close = difflib.get_close_matches(str(place[-1]), known, 1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
    return f"{name}: no such field; {hint}"


def _fields_at(place: Sequence[int | str]) -> list[str]:
    """Names of the fields of the part of a recipe at `place`."""
    part: Any = Recipe
    for step in place:
        # An index into list[Part], or a field of type Part or Part | None.
        part = part if isinstance(step, int) else part.model_fields[step].annotation
        part = next((p for p in get_args(part) if hasattr(p, "model_fields")), part)
    return list(part.model_fields)

"""Recipes: validated YAML files that say everything a training run depends on."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, PositiveFloat, ValidationError, model_validator

from mtc_perception.errors import UserError
from offline_compress.recipe_compression import Compression, Distillation
from offline_compress.recipe_parts import (
    DataSource,
    Fraction,
    NotNegative,
    Schedule,
    SizePx,
    Strict,
)


class Recipe(Strict):
    """A training run."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """Also the folder of the run under runs/."""
    model: str
    """Of the registry, models/registry.py."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the model to replace, e.g. `segmentation: full` of rmt_ppad_l."""
    classes: Annotated[list[str], Field(min_length=1, max_length=1)]
    """One: the data sets carry one class, vehicles."""
    input: SizePx
    crop: SizePx
    scale_jitter: tuple[PositiveFloat, PositiveFloat] = (0.6, 1.7)
    """Least and greatest random scale of a training image, relative to the deployed scale."""
    mosaic: Fraction = 0.0
    """Share of the samples that are put together from four images."""
    mosaic_off_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs at the end without mosaics: the last ones see what the vehicle sees."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    start_from: Path | None = None
    """Checkpoint whose weights training starts from; none: random weights."""
    backbone_weights: Path | None = None
    """File with pretrained weights of the backbone (see models/pretrained.py), or none."""
    train: Annotated[list[DataSource], Field(min_length=1)]
    validate_on: DataSource
    mask_loss: Literal["dice", "focal"] = "dice"
    """Of the drivable area and the lanes: see losses/masks.py."""
    schedule: Schedule
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the forward pass; weights are always fp32. auto: bf16 where the machine computes in it,
    else fp16 on a GPU and fp32 on a CPU."""
    checkpoint_minutes: NotNegative = 5.0
    """Time between two saves of the run; 0: after every step."""
    licence: str
    """Licence of the weights that follows from the training data; copied into the bundle."""
    shape_of: Path | None = None
    """Pruned checkpoint whose shape is trained from random weights, or none. (A run that starts
    from a pruned checkpoint has its shape.)"""
    distillation: Distillation | None = None
    """A teacher whose features are learnt as well, or none."""
    compress: Compression | None = None
    """What `mtc-compress run` does with the trained network; `train` reads past it."""

    @model_validator(mode="after")
    def _one_start(self) -> "Recipe":
        if self.start_from and self.backbone_weights:
            raise ValueError("start_from and backbone_weights exclude each other")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        epochs, (low, high) = self.schedule.epochs, self.scale_jitter
        if low > high:
            raise ValueError(f"scale_jitter: the least scale {low} is above the greatest {high}")
        if self.mosaic and self.mosaic_off_epochs >= epochs:
            raise ValueError(f"mosaic_off_epochs must be less than epochs ({epochs})")
        if self.schedule.warmup_epochs >= epochs:
            raise ValueError(f"schedule.warmup_epochs must be less than epochs ({epochs})")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe; relative data roots are taken from the working directory.

    Raises UserError naming the file and every wrong field.
    """
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"recipe {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path} is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        wrong = "; ".join(_complaint(e["type"], e["loc"], e["msg"]) for e in error.errors())
        raise UserError(f"recipe {path}: {wrong}") from None


def _complaint(kind: str, place: Sequence[int | str], message: str) -> str:
    name = ".".join(map(str, place)) or "file"
    if kind != "extra_forbidden":
        return f"{name}: {message}"
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

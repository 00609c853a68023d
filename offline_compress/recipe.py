"""Recipes: validated YAML files that say everything a training run depends on."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from mtc_perception.errors import UserError

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSource(_Strict):
    """One split of one data set; `weight` is its share of the drawn samples."""

    root: Path
    split: str
    weight: Annotated[float, Field(gt=0)] = 1.0


class SizePx(_Strict):
    """Height and width in pixels, multiples of 32."""

    height: Annotated[int, Field(gt=0, multiple_of=32)]
    width: Annotated[int, Field(gt=0, multiple_of=32)]


class Schedule(_Strict):
    """Optimisation: AdamW, linear warm-up, cosine decay to 1 % of `learning_rate`."""

    epochs: Positive
    samples_per_epoch: Positive
    batch: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_epochs: Annotated[float, Field(ge=0)]
    ema_decay: Fraction
    validate_every_epochs: Positive


class Recipe(_Strict):
    """A training run."""

    name: str
    model: str
    classes: list[str]
    input: SizePx
    crop: SizePx
    scale_jitter: tuple[PositiveFloat, PositiveFloat] = (0.6, 1.7)
    """Least and greatest random scale of a training image, relative to the deployed scale."""
    seed: int = 0
    start_from: Path | None = None
    """Checkpoint whose weights training starts from; none: random weights."""
    train: Annotated[list[DataSource], Field(min_length=1)]
    validate_on: DataSource
    schedule: Schedule
    licence: str
    """Licence of the weights that follows from the training data; copied into the bundle."""


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe; relative data roots are taken from the working directory.

    Raises UserError naming the file and every wrong field.
    """
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"recipe {path} does not exist") from None
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path} is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()
        )
        raise UserError(f"recipe {path}: {wrong}") from None

"""Parts of recipes that training and compression share: data, sizes, schedules."""

from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    model_validator,
)

from mtc_perception.util.strict import Strict

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if low > high:
        raise ValueError(f"the least {low} is above the greatest {high}")
    return bounds


Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)]
"""The least and the greatest of something."""


class SyntheticRoads(Strict):
    """Arguments of `mtc-compress synth dataset`."""

    count: Positive
    width: Positive
    height: Positive
    seed: Annotated[int, Field(ge=0)]


class DataSource(Strict):
    """One split of one data set; `weight` is its share of the drawn samples."""

    root: Path
    split: str
    weight: Annotated[float, Field(gt=0)] = 1.0
    synthetic: SyntheticRoads | None = None
    """Roads that are rendered into `root` where that does not exist yet."""


class SizePx(Strict):
    """Height and width in pixels, multiples of 32."""

    height: Annotated[int, Field(gt=0, multiple_of=32)]
    width: Annotated[int, Field(gt=0, multiple_of=32)]


class Schedule(Strict):
    """Optimisation: AdamW, linear warm-up, cosine decay to 1 % of `learning_rate`."""

    epochs: Positive
    samples_per_epoch: Positive
    batch: Positive
    """Samples per optimiser step, over all processes."""
    accumulate: Positive = 1
    """Forward and backward passes that a step is split into: less memory, the same batch."""
    learning_rate: Annotated[float, Field(gt=0)]
    backbone_rate: Fraction = 1.0
    """Learning rate of the backbone as a fraction of `learning_rate`."""
    weight_decay: NotNegative
    """Of convolution and linear weights; norms and biases have none."""
    warmup_epochs: NotNegative
    ema_decay: Fraction
    validate_every_epochs: Positive
    patience_epochs: Positive | None = None
    """Epochs without a better score after which the run ends early; none: never."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> "Schedule":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be less than epochs ({self.epochs})")
        return self

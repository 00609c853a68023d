"""Parts of recipes that training and compression share: data, sizes, schedules."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    model_validator,
)

from mtc_perception.core.input_size import Fit, InputSize
from mtc_perception.util.strict import Strict
from offline_compress.recipe.data_root import data_root

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


DataRoot = Annotated[Path, AfterValidator(data_root)]
"""Of a data set, given by its path or its name."""


class SyntheticRoads(Strict):
    """Arguments of `mtc-compress synth dataset`."""

    count: Positive
    """Images."""
    width: Positive
    """Pixels."""
    height: Positive
    """Pixels."""
    seed: Annotated[int, Field(ge=0)]
    """Of all that is random about them."""


class DataSource(Strict):
    """One split of one data set, or some of its images; `weight` is its share of the drawn samples.

    Patterns are those of file names (`0016E5*`), of stems; each must fit one.
    """

    root: DataRoot
    """Folder of the data set, or its name."""
    split: str
    """Such as `train` or `val`."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share of the samples that are drawn, relative to the other sources."""
    only: tuple[str, ...] = ()
    """Images that fit one of these patterns; none: all."""
    without: tuple[str, ...] = ()
    """Images that fit one of these patterns are left out, as of a drive that is held out."""
    thin: dict[str, Positive] = Field(default_factory=dict)
    """Of the images that fit a pattern every n-th is taken, by name: of a clip of near-duplicates.
    """
    boxes_of_masks: bool = False
    """Its boxes were made from semantic masks: what may be a piece of a vehicle is not learnt."""
    synthetic: SyntheticRoads | None = None
    """Roads that are rendered into `root` where that does not exist yet."""

    @property
    def title(self) -> str:
        """For people: what it takes of which data set."""
        words = [self.root.name, self.split]
        words += [f"only {', '.join(self.only)}"] if self.only else []
        words += [f"without {', '.join(self.without)}"] if self.without else []
        words += [f"every {step}. of {pattern}" for pattern, step in self.thin.items()]
        return " ".join(words)


def _listed(content: Any) -> Any:
    return content if isinstance(content, list) else [content]


DataSources = Annotated[list[DataSource], BeforeValidator(_listed)]
"""A single one may stand without a list."""


def set_names(sources: Sequence[DataSource]) -> list[str]:
    """What each source is called in results: its folder, or its title where folders share a name.

    Where titles are the same, too, they are numbered.
    """
    folders = Counter(source.root.name for source in sources)
    names = [
        source.root.name if folders[source.root.name] == 1 else source.title for source in sources
    ]
    counts = Counter(names)
    return [
        f"{name} {number}" if counts[name] > 1 else name for number, name in enumerate(names, 1)
    ]


class SizePx(Strict):
    """Height and width in pixels, multiples of 32."""

    height: Annotated[int, Field(gt=0, multiple_of=32)]
    """Pixels."""
    width: Annotated[int, Field(gt=0, multiple_of=32)]
    """Pixels."""


class InputPx(SizePx):
    """Of the network's input."""

    fit: Fit = "letterbox"
    """How images are made to fill it."""

    @property
    def size(self) -> InputSize:
        """The same as the vehicle's code has it."""
        return InputSize(self.height, self.width, self.fit)


class Closing(Strict):
    """The last epochs: without mosaics, and with crops of their own."""

    epochs: Positive
    """How many."""
    crop: SizePx | None = None
    """None: as before."""
    scale_jitter: Range | None = None
    """None: as before."""


class Schedule(Strict):
    """Optimisation: AdamW, linear warm-up, cosine decay to 1 % of `learning_rate`."""

    epochs: Positive
    """How many. More make a run longer, also one that is done."""
    samples_per_epoch: Positive
    """An epoch is so many samples, however many images there are."""
    batch: Positive
    """Samples per optimiser step, over all processes."""
    accumulate: Positive = 1
    """Forward and backward passes that a step is split into: less memory, the same batch."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Its peak."""
    backbone_rate: Fraction = 1.0
    """Learning rate of the backbone as a fraction of `learning_rate`."""
    weight_decay: NotNegative
    """Of convolution and linear weights; norms and biases have none."""
    warmup_epochs: NotNegative
    """The rate rises linearly over these."""
    ema_decay: Fraction
    """Of the average of the weights, per step; the average is what is validated and kept."""
    validate_every_epochs: Positive
    """And after the last."""
    patience_epochs: Positive | None = None
    """Epochs without a better score after which the run ends early; none: never."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> "Schedule":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be less than epochs ({self.epochs})")
        return self

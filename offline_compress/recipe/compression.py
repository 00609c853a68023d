"""What a recipe says about compressing the network that it trains."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mtc_perception.util.strict import Spelled, Strict
from offline_compress.recipe.parts import (
    Closing,
    Fraction,
    NotNegative,
    Positive,
    Range,
    Schedule,
    SizePx,
)

Criterion = Literal["random", "l2", "joint", "tci_sum", "tci_max"]
Allocation = Literal["score", "sensitivity"]
Cost = Literal["none", "parameters", "macs", "latency"]
QuantisedVariant = Literal["fp16", "int8-ort", "int8-openvino", "int8-trt"]
Below1 = Annotated[float, Field(gt=0, lt=1)]


class Lessons(Strict):
    """What is learnt of a teacher beside the labels."""

    weight: NotNegative = 1.0
    """Of its features, whatever the heads are: of the backbone's levels C3..C5; the encoder's
    levels P3..P5 weigh twice that."""
    foreground: NotNegative = 0.0
    """Of P3..P5 inside the boxes of vehicles once more, relative to `weight`: every vehicle counts
    once, however large it is."""
    masks: NotNegative = 0.0
    """Of both its masks, on every pixel, labelled or not. 1: as much as labels weigh."""
    vehicles: NotNegative = 0.0
    """Of its vehicles in images where none are labelled: as much as labels weigh elsewhere. Both
    networks need dense heads."""
    queries: NotNegative = 0.0
    """Of what it makes of the denoising queries of training, the same ones for both, as much as
    labels weigh. Both networks need query decoders."""
    decay: Fraction = 0.2
    """Share of the run, at its end, over which these weights fall to 0."""

    @property
    def wanted(self) -> bool:
        """Whether a teacher is needed at all."""
        return bool(self.weight or self.masks or self.vehicles or self.queries)


class Distillation(Lessons):
    """Learning from a teacher."""

    teacher: Path
    """Checkpoint of any network of the registry, with any heads."""


def _weight_alone(value: Any) -> Any:
    return {"weight": value} if isinstance(value, int | float) else value


class Scoring(Strict):
    """Calibration for importance and conflict: images of the training set, not augmented."""

    images: Positive = 128
    """How many."""
    batch: Positive = 8
    """Images per Taylor term and per conflict angle."""


class Budget(Spelled):
    """What may remain, as fractions of the unpruned network; every given one is kept."""

    parameters: Below1 | None = None
    """Of the network as it is deployed."""
    macs: Below1 | None = None
    """Multiplications and additions of one image."""
    latency: Below1 | None = None
    """Measured at batch 1 on the target engine."""

    @model_validator(mode="after")
    def _some(self) -> "Budget":
        if not any((self.parameters, self.macs, self.latency)):
            raise ValueError("give at least one of parameters, macs and latency")
        return self


class Guard(Strict):
    """Largest loss that a pruning step may end with, in points of each judged figure of a task:
    mAP50, mAP50-95 and best F1 of the vehicles, mIoU of the drivable area, IoU of the lanes.

    A step that loses more is taken back and tried once more with twice the locked channels; if that
    loses more, too, pruning ends there. The last step has no guard: its recovery is the training
    that follows the pruning."""

    detection: PositiveFloat = 5.0
    """Of each of its three figures."""
    drivable: PositiveFloat = 2.0
    """Of its mIoU."""
    lane: PositiveFloat = 5.0
    """Of its IoU."""


class PruningRules(Spelled):
    """Which channels go, of a network of any make."""

    budget: Budget
    """What may remain."""
    criterion: Criterion = "tci_max"
    """What a channel's score is, see docs/method.md."""
    conflict: Fraction = 0.0
    """Weight of the gradient-conflict penalty of the tci criteria; 0: none (docs/method.md)."""
    allocation: Allocation = "score"
    """How wide each layer stays: as the scores of its channels say, or (`sensitivity`) as each
    task's loss does, measured with the layer at several widths and without residual blocks."""
    cost: Annotated[Cost, Field(validate_default=True)] = None  # type: ignore[assignment]
    """What a channel's score, or a width's loss, is divided by. By default what the budget limits:
    of several its latency, else its macs."""
    engine: Literal["openvino", "onnxruntime"] = "openvino"
    """Target engine of latencies."""
    steps: Positive = 4
    """Equal steps to the budget, each scored anew."""
    round_to: Literal[1, 4, 8, 16, 32] = 8
    """What the widths of layers are multiples of."""
    least_channels: Positive = 16
    """A layer keeps at least so many,"""
    least_share: Fraction = 0.25
    """and at least this share of its channels."""
    locked: Fraction = 0.03
    """Share of the channels, the best of each task, that is never removed in a step."""
    largest_rise: NotNegative | None = 0.25
    """Where widths go by scores, each layer's cut is tried alone before a step is made; one that
    raises any task's loss on calibration images by more than this fraction is halved until it does
    not. None: untried."""

    @field_validator("cost", mode="before")
    @classmethod
    def _of_the_budget(cls, cost: Any, info: ValidationInfo) -> Any:
        if cost is not None:
            return cost
        limits = info.data["budget"].model_dump(exclude_none=True) if "budget" in info.data else {}
        return next((kind for kind in ("latency", "macs", "parameters") if kind in limits), "none")


class Pruning(PruningRules):
    """Which channels of a network of the registry go, and what is done between the steps."""

    protect: tuple[str, ...] = ()
    """Layers or parts of the network, by dotted name, that keep all their channels."""
    decoder_layers: Positive | None = None
    """Layers of a query decoder that remain, the first ones; none: all."""
    decoder_queries: Positive | None = None
    """Queries of a query decoder that remain; none: all."""
    epochs_between: NotNegative = 0.5
    """Recovery after each step but the last, in epochs of `recover.schedule`."""
    distillation: NotNegative | None = None
    """Weight of the teacher's features in these recoveries; None: as in `recover`, as all else."""
    guard: Guard = Guard()
    """What a step may lose."""

    @model_validator(mode="after")
    def _guarded(self) -> "Pruning":
        if not self.epochs_between and self.guard != Guard():
            raise ValueError("guard judges steps that have recovered: epochs_between must not be 0")
        return self


class Recovery(Strict):
    """Training of the pruned network, with the data and all else of the recipe itself."""

    schedule: Schedule
    """As long as recovering pays."""
    crop: SizePx | None = None
    """None: as in the recipe."""
    scale_jitter: Range | None = None
    """None: as in the recipe."""
    closing: Closing | None = None
    """None: as in the recipe."""
    distillation: Annotated[Lessons, BeforeValidator(_weight_alone)] = Lessons()
    """From the unpruned network; a number is the `weight` of its features, 0: none."""
    from_scratch: bool = False
    """Train the pruned shape from random weights instead: a control experiment."""


TOLERANCE_POINTS = 0.3
"""What a variant of lower precision may lose of any figure, by default."""


class Quantisation(Strict):
    """Variants of the student beside fp32, calibrated on images of the training set."""

    variants: tuple[QuantisedVariant, ...] = ("fp16", "int8-ort", "int8-openvino", "int8-trt")
    """Those to try; int8 needs one file per family of engines."""
    images: Positive = 128
    """To calibrate on."""
    judged_images: Positive = 500
    """Of each data set to validate on, at even distances: what attempts are judged by. The
    variants that come of it are evaluated on all."""
    tolerance: PositiveFloat = TOLERANCE_POINTS
    """Largest loss of any watched figure, in points, before the most sensitive layers are kept in
    higher precision."""


class Compression(Strict):
    """From the trained network to the bundle of its student."""

    teacher: Path | None = None
    """Checkpoint to compress; none: runs/NAME/best of the recipe itself, trained where needed."""
    student: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None = None
    """Name of the student and its bundle; none: the recipe's with `_student`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the random criterion and of what recovery draws; the teacher has the recipe's own."""
    scoring: Scoring = Scoring()
    """What scores are measured on."""
    prune: Pruning
    """What goes."""
    recover: Recovery
    """How what remains is trained."""
    quantise: Quantisation = Quantisation()
    """What variants are made."""

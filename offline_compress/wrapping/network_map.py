"""Network maps: what goes into a network and what its outputs mean, as YAML files say it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, ValidationError, model_validator
from typing_extensions import Self

from mtc_perception.core.bundle import MOST_PIXELS, Name, Thresholds
from mtc_perception.core.class_map import ClassMap
from mtc_perception.core.input_size import Fit
from mtc_perception.core.tasks import TASKS, Task
from mtc_perception.util.errors import UserError
from mtc_perception.util.strict import Spelled
from offline_compress.recipe.parts import Fraction, Positive
from offline_compress.recipe.yaml_file import read_yaml

Channels = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Pixels = Annotated[int, Field(gt=0, le=MOST_PIXELS)]
Colour = tuple[float, float, float]


class NetworkInput(Spelled):
    """What the network is given: (pixel - mean) / std, of float [1, 3, H, W]."""

    color_order: Literal["rgb", "bgr"] = "rgb"
    mean: Colour = (0.0, 0.0, 0.0)
    """Of pixels in 0..255, in the order of `color_order`; so is `std`."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (1.0, 1.0, 1.0)
    fit: Fit = "letterbox"
    """How images are made to fill it: as the node does, with the image in the middle."""
    height: Pixels | None = None
    """None: as the file says; needed where that leaves it open. So is `width`."""
    width: Pixels | None = None


class Mask(Spelled):
    """A mask of one task, from channels of an output [1, C, h, w], or [1, h, w] of classes."""

    output: str
    channels: Channels = (1,)
    """Those of the foreground."""
    values: Literal["softmax", "sigmoid", "share", "probability", "argmax"] = "softmax"
    """What becomes a probability. softmax, sigmoid: of logits; share: of the sum of all channels,
    for one probability per channel that need not add up to 1; probability: the value itself;
    argmax: 1 where a channel of the foreground is the greatest, or where the class is one of it."""
    threshold: Fraction = 0.5


class _Detection(Spelled):
    """What every decoder needs besides its outputs."""

    classes: Annotated[dict[Name, Channels], Field(min_length=1)]
    """Name in the bundle, and the network's classes that it stands for, by number."""
    threshold: Fraction = 0.3
    max_detections: Annotated[int, Field(gt=0, le=1000)] = 100
    iou: Annotated[float, Field(gt=0, le=1)] | None = 0.6
    """A box with more overlap with a better one of its class is a duplicate; None: there are none.
    """


class _Rows(_Detection):
    output: str
    """[1, N, C] or [1, C, N], C being the fewer: 4 numbers of the box, the objectness if there is
    one, and a number per class."""
    objectness: bool = True
    """Whether scores are the product of it and the class's number."""
    values: Literal["probability", "sigmoid"] = "probability"
    """What objectness and classes are; sigmoid: logits."""


class Boxes(_Rows):
    """Boxes in pixels of the input: YOLOP, YOLOv5 and YOLOv8 as they are usually exported."""

    decoder: Literal["boxes"] = "boxes"
    form: Literal["centre", "corners"] = "centre"
    """centre: x, y, width, height; corners: x1, y1, x2, y2."""


class AnchorFree(_Rows):
    """Offsets from the cells of grids and logarithms of sizes, both in strides: YOLOX."""

    decoder: Literal["anchor_free"] = "anchor_free"
    strides: Annotated[tuple[Positive, ...], Field(min_length=1)] = (8, 16, 32)
    """In the order of the rows."""


class Anchored(_Detection):
    """One output of logits per stride, [1, A (5 + classes), h, w] or [1, A, h, w, 5 + classes]:
    YOLOv5 and what descends from it, undecoded."""

    decoder: Literal["anchored"] = "anchored"
    outputs: Annotated[tuple[str, ...], Field(min_length=1)]
    strides: Annotated[tuple[Positive, ...], Field(min_length=1)] = (8, 16, 32)
    anchors: Annotated[
        tuple[tuple[tuple[PositiveFloat, PositiveFloat], ...], ...], Field(min_length=1)
    ]
    """Width and height in pixels of the A anchors of each output."""

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if not len(self.outputs) == len(self.strides) == len(self.anchors):
            raise ValueError("outputs, strides and anchors must be equally many")
        return self


class Query(_Detection):
    """Queries of a transformer, as DETR and RT-DETR: boxes [1, Q, 4] as fractions of the input,
    centre and size; logits [1, Q, classes]."""

    decoder: Literal["query"] = "query"
    boxes: str
    logits: str
    values: Literal["sigmoid", "softmax"] = "sigmoid"
    """softmax: the last class is `nothing`."""
    iou: Annotated[float, Field(gt=0, le=1)] | None = None


class Final(_Detection):
    """What the network itself has decoded, chosen and suppressed: boxes [1, N, 4] x1, y1, x2, y2 in
    pixels of the input, scores [1, N], and numbers of classes [1, N]."""

    decoder: Literal["final"] = "final"
    boxes: str
    scores: str
    labels: str
    iou: Annotated[float, Field(gt=0, le=1)] | None = None


Detection = Annotated[Boxes | AnchorFree | Anchored | Query | Final, Field(discriminator="decoder")]


class NetworkMap(Spelled):
    """What a network's file does not say of it. A task that is not described is lacking."""

    input: NetworkInput = NetworkInput()
    detection: Detection | None = None
    drivable: Mask | None = None
    lane: Mask | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those that are described."""
        return tuple(task for task in TASKS if getattr(self, task) is not None)

    @property
    def class_map(self) -> ClassMap:
        """Of the bundle's classes, by their names."""
        return ClassMap.of(list(self.detection.classes) if self.detection else [])

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs that are described, each once."""
        found: list[str] = []
        match self.detection:
            case Boxes() | AnchorFree():
                found.append(self.detection.output)
            case Anchored():
                found += self.detection.outputs
            case Query():
                found += [self.detection.boxes, self.detection.logits]
            case Final():
                found += [self.detection.boxes, self.detection.scores, self.detection.labels]
        found += [mask.output for mask in (self.drivable, self.lane) if mask is not None]
        return tuple(dict.fromkeys(found))

    @property
    def thresholds(self) -> Thresholds:
        """Those of the bundle; of tasks that are lacking they mean nothing."""
        return Thresholds(
            score=self.detection.threshold if self.detection else 0.5,
            drivable=self.drivable.threshold if self.drivable else 0.5,
            lane=self.lane.threshold if self.lane else 0.5,
        )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.tasks:
            raise ValueError(f"describe at least one of {', '.join(TASKS)}")
        return self


def load_map(path: Path) -> NetworkMap:
    """Read and validate a network map. Raises UserError naming the file and every wrong field."""
    content = read_yaml(path, "network map")
    try:
        return NetworkMap.model_validate(content)
    except ValidationError as error:
        places = (".".join(map(str, one["loc"])) or "file" for one in error.errors())
        reasons = (one["msg"].removeprefix("Value error, ") for one in error.errors())
        wrong = "; ".join(map(": ".join, zip(places, reasons, strict=True)))
        raise UserError(f"network map {path}: {wrong}; docs/wrap.md has every field") from None

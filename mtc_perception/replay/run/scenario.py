"""The scenario file: what is replayed how, and what has to come out of it."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from mtc_perception.core.engine import EngineChoice
from mtc_perception.replay.recordings.bag_labels import TruthTopics
from mtc_perception.replay.results.limits import Limits, unknown_figure
from mtc_perception.replay.run.plan import Recording
from mtc_perception.util.errors import UserError


class _Strict(BaseModel):
    """Fields are what is written here, no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Limit(_Strict):
    """Least and greatest allowed value; at least one of them."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class Truth(_Strict):
    """Topics of a bag's labels."""

    detections: str | None = None
    drivable: str | None = None
    lane: str | None = None


class BagEntry(_Strict):
    """One recording: a bag, a video or an image folder."""

    path: Path
    topics: list[str] = []
    """Cameras of a bag; none named: all of them."""
    truth: Truth | None = None
    """Topics of the labels; left out: those under `ground_truth`."""
    labels: Path | None = None
    """Folder of labels, in place of those in the recording."""
    fps: PositiveFloat | None = None
    """Frame rate of an image folder, or to play a video at."""


class Scenario(_Strict):
    """A run that is repeated, and its limits. Paths are relative to the file."""

    name: Annotated[str, Field(min_length=1)]
    bundle: Path | None = None
    bags: Annotated[list[BagEntry], Field(min_length=1)]
    reference: Path | None = None
    engine: EngineChoice = "auto"
    precision: Literal["fp32", "fp16", "int8"] | None = None
    threads: PositiveInt | None = None
    seconds: PositiveFloat | None = None
    mode: Literal["lockstep", "live"] = "lockstep"
    rate: PositiveFloat = 1.0
    """Playing speed of a live run, 1 is real time."""
    max_frame_age_ms: Annotated[float, Field(ge=0)] = 0.0
    """The node's parameter in a live run; 0: no image is too old."""
    limits: dict[str, Limit] = {}
    """By figure of the result, as `detection.recall` or `latency_ms.end_to_end.p95`."""

    @field_validator("limits")
    @classmethod
    def _figures_exist(cls, value: dict[str, Limit]) -> dict[str, Limit]:
        for name in value:
            if (reason := unknown_figure(name)) is not None:
                raise ValueError(reason)
        return value

    def recordings(self) -> list[Recording]:
        """The entries of `bags`."""
        return [
            Recording(
                entry.path,
                tuple(entry.topics),
                None if entry.truth is None else TruthTopics(**entry.truth.model_dump()),
                entry.labels,
                entry.fps,
            )
            for entry in self.bags
        ]

    def all_limits(self) -> list[Limits]:
        """The limits in the order of the file."""
        return [Limits(name, limit.min, limit.max) for name, limit in self.limits.items()]


def read_scenario(path: Path) -> Scenario:
    """A scenario file, its paths made absolute. Raises UserError naming the field at fault."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no scenario: it must hold name, bags, ...")
    try:
        scenario = Scenario.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(map(_reason, error.errors()))}") from None
    root = path.parent.absolute()

    def placed(given: Path | None) -> Path | None:
        return None if given is None else root / given

    bags = [
        entry.model_copy(update={"path": root / entry.path, "labels": placed(entry.labels)})
        for entry in scenario.bags
    ]
    return scenario.model_copy(
        update={
            "bags": bags,
            "bundle": placed(scenario.bundle),
            "reference": placed(scenario.reference),
        }
    )


def _reason(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "scenario"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"

"""The scenario file: what is replayed how, what has to come out of it, and whether it did."""

import difflib
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from mtc_perception.core.timing import percentiles
from mtc_perception.core.truth import GroundTruth
from mtc_perception.metrics.figures import value_of
from mtc_perception.metrics.tasks import PerceptionMetrics
from mtc_perception.replay.options import Recording, ReplayOptions, reasons
from mtc_perception.replay.stream.lockstep import STAGES as LOCKSTEP_STAGES
from mtc_perception.replay.stream.task import Failure
from mtc_perception.runtime.frames import STAGES as NODE_STAGES
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import read_regular
from mtc_perception.util.strict import Strict

_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML cannot hold, as those that colour a log."""


class Limit(Strict):
    """Least and greatest allowed value of a figure; at least one of them."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


@dataclass(frozen=True, slots=True)
class Check:
    """One figure held against its limits."""

    name: str
    value: float | None
    """None where the run does not have this figure."""
    min: float | None
    max: float | None
    passed: bool

    def __str__(self) -> str:
        """As one line."""
        limits = [
            f"{word} {limit:g}"
            for word, limit in (("at least", self.min), ("at most", self.max))
            if limit is not None
        ]
        value = "not measured" if self.value is None else f"{self.value:.4g}"
        return f"{self.name} is {value}, wanted {' and '.join(limits)}"


def check_limits(result: Mapping[str, Any], limits: Mapping[str, Limit]) -> list[Check]:
    """Every limit against a result; a figure that the result does not have fails.

    The name of a limit is where its figure is in a result, as `latency_ms.end_to_end.p95`.
    """
    checks = []
    for name, limit in limits.items():
        value = value_of(result, name)
        passed = (
            value is not None
            and (limit.min is None or value >= limit.min)
            and (limit.max is None or value <= limit.max)
        )
        checks.append(Check(name, value, limit.min, limit.max, passed))
    return checks


def unknown_figure(name: str) -> str | None:
    """Why no result can have a figure of this name; None if one can."""
    known = _known_figures()
    # Live runs have figures of their own, which depend on the recording.
    if name in known or name.startswith("live."):
        return None
    near = difflib.get_close_matches(name, known, n=3)
    return f"no figure is called {name!r}" + (f"; near are {', '.join(near)}" if near else "")


def junit_xml(suite: str, checks: Sequence[Check], failures: Sequence[Failure]) -> str:
    """Checks and failed streams as a JUnit report, as CI systems read it."""
    root = ET.Element(
        "testsuite",
        name=suite,
        tests=str(len(checks) + len(failures)),
        failures=str(sum(not check.passed for check in checks)),
        errors=str(len(failures)),
    )
    for check in checks:
        case = ET.SubElement(root, "testcase", classname=suite, name=check.name)
        if not check.passed:
            ET.SubElement(case, "failure", message=str(check))
    for failure in failures:
        case = ET.SubElement(root, "testcase", classname=suite, name=failure.name)
        ET.SubElement(case, "error", message=_NO_XML.sub("?", failure.error))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _known_figures() -> list[str]:
    mask = np.array([[True, False]])
    truth = GroundTruth(np.array([[0.0, 0.0, 1.0, 1.0]]), None, mask, mask)
    metrics = PerceptionMetrics()
    bytes_mask = mask.astype(np.uint8) * np.uint8(255)
    metrics.update(truth, [[0, 0, 1, 1]], [0.5], bytes_mask, bytes_mask)
    accuracy = _names(metrics.to_json())
    times = [
        f"latency_ms.{stage}.{name}"
        for stage in dict.fromkeys((*LOCKSTEP_STAGES, *NODE_STAGES, "published"))
        for name in percentiles([1.0])
    ]
    endings = ("in", "processed", "dropped", "stale", "malformed", "unreadable", "per_s")
    return [
        *accuracy,
        *(f"agreement.{name}" for name in accuracy),
        "stability.detection.persistence",
        "stability.drivable.iou",
        "stability.lane.iou",
        *times,
        *(f"frames_{ending}" for ending in endings),
        "labelled_frames",
    ]


def _names(content: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        names += _names(value, f"{name}.") if isinstance(value, Mapping) else [name]
    return names


class Scenario(ReplayOptions):
    """A run that is repeated, and its limits. Paths are relative to the file."""

    name: Annotated[str, Field(min_length=1)]
    bags: Annotated[list[Recording], Field(min_length=1)]
    limits: dict[str, Limit] = Field(default_factory=dict)
    """By figure of the result, as `detection.recall` or `latency_ms.end_to_end.p95`."""

    @field_validator("limits")
    @classmethod
    def _figures_exist(cls, value: dict[str, Limit]) -> dict[str, Limit]:
        for name in value:
            if (reason := unknown_figure(name)) is not None:
                raise ValueError(reason)
        return value

    def options(self) -> ReplayOptions:
        """Without the recordings and limits."""
        return ReplayOptions(**{name: getattr(self, name) for name in ReplayOptions.model_fields})


def read_scenario(path: Path, given: Mapping[str, Any]) -> Scenario:
    """A scenario file, with the options `given` in place of its own.

    Raises UserError naming the field at fault.
    """
    try:
        content = yaml.safe_load(read_regular(path).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no scenario: it must hold name, bags, ...")
    content |= given
    if "bundle" not in content:
        raise UserError("give the network to run: --bundle or bundle:")
    try:
        return Scenario.model_validate(content, context={"root": path.parent.absolute()})
    except ValidationError as error:
        raise UserError(f"{path}: {reasons(error)}") from None

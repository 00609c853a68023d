"""The scenario file: what is replayed how, and what has to come out of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator

from mtc_perception.replay.options import Recording, ReplayOptions, reasons
from mtc_perception.replay.results.limits import Limit, unknown_figure
from mtc_perception.util.errors import UserError


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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
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

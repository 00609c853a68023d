"""The plan of a pruning: which channels of which teacher remain. It replays to the same network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError
from torch import nn

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.strict import Strict
from offline_compress.channels.groups import ChannelGroup, channel_groups
from offline_compress.channels.surgery import (
    keep_channels,
    pruned_spec,
    shorten_decoder,
)
from offline_compress.importance.multi_task import description_of
from offline_compress.models.registry import (
    WEIGHTS_FILE,
    ModelSpec,
    load_checkpoint,
    load_spec,
)
from offline_compress.recipe.parts import Fraction, NotNegative, Positive

Channel = Annotated[int, Field(ge=0)]


class PlanStep(Strict):
    """One step on the way, and what was measured."""

    budget: dict[str, float]
    """What the step aimed at: `parameters`, `macs`, `latency` as fractions of the teacher's."""
    channels: dict[str, Channel]
    """Group -> number of channels that remain after it; 0: its residual block went in this step,
    absent: in one before."""
    parameters: Positive
    """As deployed."""
    gmacs: NotNegative
    """Multiply-accumulates per image in 1e9, as deployed."""
    latency_ms: NotNegative | None = None
    """At batch 1 on the target engine; None: not measured, as it is not in the budget."""
    teacher_latency_ms: NotNegative | None = None
    """The teacher's, in the same minute."""
    remains: dict[str, float] = Field(default_factory=dict)
    """What is left, as fractions of the teacher's like `budget`; `latency`, where measured: the
    median ratio of both times in turn. More than in `budget`: the step did not keep it."""
    locked: Fraction | None = None
    """Share of each task's best channels that the step was not allowed to remove."""
    before: dict[str, float] = Field(default_factory=dict)
    """Judged figures of the validation before the step, by dotted name."""
    cut: dict[str, float] = Field(default_factory=dict)
    """The same without the channels, before recovery."""
    after: dict[str, float] = Field(default_factory=dict)
    """The same after it and its recovery."""
    taken_back: str = ""
    """Why the step does not count (the guard); empty if it does."""
    taken_back_before: str = ""
    """Why a first attempt did not count; this one locked twice as many channels."""


class Plan(Strict):
    """What pruning did to a teacher."""

    schema_version: Literal[1] = 1
    teacher: str
    """Name of the teacher's network."""
    teacher_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of the teacher's weights file."""
    decoder_layers: Positive | None = None
    decoder_queries: Positive | None = None
    """Layers and queries of the query decoder that remain; None: all."""
    steps: list[PlanStep] = Field(default_factory=list)
    kept: dict[str, list[Channel]] = Field(default_factory=dict)
    """Group -> the teacher's channels that remain, ascending; none: its residual block is gone.
    Groups that keep all are absent."""


def composed(
    groups: Sequence[ChannelGroup],
    before: Mapping[str, Sequence[int]],
    after: Mapping[str, Sequence[int]],
) -> dict[str, list[int]]:
    """The teacher's channels that remain when a pruned network is pruned again.

    Args:
        groups: those of the teacher.
        before: group -> the teacher's channels that remained so far.
        after: group -> the pruned network's channels that remain now.

    Groups absent from `before` or `after` keep all. Returns groups that lost channels only.
    """
    kept = {}
    for group in groups:
        first = np.sort(np.asarray(before.get(group.name, range(group.size)), np.int64))
        second = np.asarray(after.get(group.name, range(len(first))), np.int64)
        channels = np.sort(first[second]).tolist()
        if len(channels) < group.size:
            kept[group.name] = channels
    return kept


def apply(plan: Plan, teacher: Path) -> tuple[ModelSpec, nn.Module]:
    """The network that the plan leaves of checkpoint `teacher`, with the teacher's weights.

    In eval mode. Raises UserError if the plan was made for other weights or does not fit them.
    """
    spec = load_spec(teacher)
    found = sha256_hex((teacher / WEIGHTS_FILE).read_bytes())
    if found != plan.teacher_sha256:
        raise UserError(
            f"the plan was made for weights of {plan.teacher} with sha256 "
            f"{plan.teacher_sha256[:12]}..., not for {teacher}, whose is {found[:12]}..."
        )
    model, spec = shorten_decoder(
        load_checkpoint(teacher), spec, plan.decoder_layers, plan.decoder_queries
    )
    groups = channel_groups(model, description_of(model))
    keep_channels(model, groups, plan.kept)
    return pruned_spec(spec, model, groups, plan.kept), model


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan as JSON, atomically."""
    write_text_atomic(path, plan.model_dump_json(indent=1) + "\n")


def read_plan(path: Path) -> Plan:
    """Read a plan. Raises UserError with the reason if there is none."""
    try:
        return Plan.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"plan {path} does not exist") from None
    except OSError as error:
        raise UserError(f"plan {path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise UserError(f"plan {path} is none of this version: {place}: {first['msg']}") from None

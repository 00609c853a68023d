"""Which channels a step removes, with its latency measured rather than only predicted."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from offline_compress.importance import ChannelScores, criterion_scores, locked
from offline_compress.pruning.cost import KINDS
from offline_compress.pruning.groups import ChannelGroup
from offline_compress.pruning.latency import Tick, deployed, time_networks
from offline_compress.pruning.plan import PlanStep
from offline_compress.pruning.selection import Limits, select
from offline_compress.pruning.setting import Setting
from offline_compress.pruning.surgery import keep_channels

ATTEMPTS = 4
"""Selections in a last step, each from what was measured of the one before."""
TOO_SLOW, TOO_FAST = 1.01, 0.97
"""Measured latency over its budget with which a selection is done."""

Kept = dict[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What a step keeps of the network that it begins with."""

    kept: Kept
    latency_ms: float
    teacher_latency_ms: float
    """Measured in turn with the other."""

    @property
    def ratio(self) -> float:
        """Latency as a fraction of the teacher's."""
        return self.latency_ms / self.teacher_latency_ms


def step_budget(setting: Setting, step: int) -> dict[str, float]:
    """What may remain after step 1..`steps`: equal steps from all to the recipe's budget."""
    share = step / setting.pruning.steps
    return {kind: 1 - (1 - least) * share for kind, least in setting.budget.items()}


def predict_choice(
    setting: Setting,
    model: nn.Module,
    groups: list[ChannelGroup],
    scores: ChannelScores,
    budget: Mapping[str, float],
    seed: int,
) -> Kept:
    """Select by predicted costs alone. Raises UserError if the budget cannot be kept."""
    pruning = setting.pruning
    value = criterion_scores(scores, groups, model, pruning.criterion, pruning.conflict, seed=seed)
    limits = Limits(setting.floors, locked(scores, groups, pruning.locked), pruning.round_to)
    return select(value, setting.costs, budget, setting.whole, limits, pruning.cost)


def measured_choice(
    setting: Setting,
    model: nn.Module,
    groups: list[ChannelGroup],
    scores: ChannelScores,
    step: int,
    before: PlanStep | None,
    seed: int,
    tick: Tick,
) -> Choice:
    """Select for a step and time the result in turn with the teacher.

    Where latency is in the budget, measurements correct the prediction: those of the step `before`,
    and in the last step those of the selection itself, which is repeated until it fits. Raises
    UserError if the budget cannot be kept.
    """
    budget = step_budget(setting, step)
    aim = budget.get("latency")
    correction = _correction(setting, before) if aim and before else 1.0
    attempts = ATTEMPTS if aim and step == setting.pruning.steps else 1
    best: Choice | None = None
    tried: dict[str, int] = {}
    for _ in range(attempts):
        if aim:
            budget["latency"] = aim / correction
        kept = predict_choice(setting, model, groups, scores, budget, seed)
        counts = {name: len(channels) for name, channels in kept.items()}
        if counts == tried:
            break  # another budget decides, or a block is more than what is missing
        tried = counts
        choice = _timed(setting, model, groups, kept, tick)
        if best is None or _better(choice, best, aim or 1.0):
            best = choice
        if aim is None or TOO_FAST <= choice.ratio / aim <= TOO_SLOW:
            break
        correction = choice.ratio / _predicted_ratio(setting, counts)
    assert best is not None
    return best


def _timed(
    setting: Setting, model: nn.Module, groups: list[ChannelGroup], kept: Kept, tick: Tick
) -> Choice:
    cut = copy.deepcopy(model)
    keep_channels(cut, groups, {name: channels.tolist() for name, channels in kept.items()})
    times_ms = time_networks(
        [deployed(cut, *setting.size), setting.network],
        setting.pruning.engine,
        partial(tick, "timing the selection"),
    )
    return Choice(kept, *times_ms)


def _better(one: Choice, other: Choice, aim: float) -> bool:
    """Whether a choice is the slower of those that are fast enough, or else the faster."""
    fits, other_fits = (choice.ratio <= aim * TOO_SLOW for choice in (one, other))
    if fits and other_fits:
        return one.ratio > other.ratio
    return fits or (not other_fits and one.ratio < other.ratio)


def _correction(setting: Setting, step: PlanStep) -> float:
    """Measured over predicted latency of a step, both as fractions of the teacher's."""
    if not step.latency_ms or not step.teacher_latency_ms:
        return 1.0
    measured = step.latency_ms / step.teacher_latency_ms
    return measured / _predicted_ratio(setting, step.channels)


def _predicted_ratio(setting: Setting, counts: Mapping[str, int]) -> float:
    number = KINDS.index("latency")
    return float(setting.costs.total(counts)[number] / setting.whole[number])

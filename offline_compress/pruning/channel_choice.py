"""Which channels a step removes, with its latency measured rather than only predicted."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import NamedCount
from offline_compress.channels.groups import ChannelGroup
from offline_compress.channels.surgery import keep_channels
from offline_compress.data.batch import Batch
from offline_compress.importance import ChannelScores, criterion_scores, locked
from offline_compress.pruning.cost import KINDS
from offline_compress.pruning.cut_trial import Trial
from offline_compress.pruning.latency_table import time_pair
from offline_compress.pruning.plan import PlanStep
from offline_compress.pruning.problem import PruningProblem, width_limits
from offline_compress.pruning.selection import (
    WidthLimits,
    best_channels,
    capped,
    is_reachable,
    require_reachable,
    score_curves,
    select,
)
from offline_compress.pruning.sensitivity import SENSITIVITY_FILE, Sensitivity, measure_sensitivity

ATTEMPTS = 4
"""Selections in a last step, each from what was measured of the one before."""
TOO_SLOW, TOO_FAST = 1.01, 0.97
"""Measured latency over its budget with which a selection is done."""
REFUSED = 1.05
"""Measured latency over its budget with which a last step is refused."""
IMPLAUSIBLE = 1.25
"""Factor between measured and predicted latency from which on it is measured once more: what is
wrong of one step would decide how deep the next one cuts."""
TRIALS = 3
"""Selections whose cuts are tried (`cut_trial`), each from what was not borne of the one before."""
TRIAL_BATCHES = 2
"""Of the calibration batches, on which cuts are tried and widths measured."""

Kept = dict[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What a step keeps of the network that it begins with."""

    kept: Kept
    latency_ms: float | None = None
    """None: not in the budget."""
    teacher_latency_ms: float | None = None
    """Measured in turn with the other."""
    ratio: float | None = None
    """Latency as a fraction of the teacher's: the median over blocks of measurements."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What a step may remove of the network that it begins with."""

    problem: PruningProblem
    value: dict[str, NDArray[np.float64]]
    """[C] importance of every group that is not protected."""
    limits: WidthLimits
    last: bool
    """Whether it is the step that must keep the whole budget."""
    sensitivity: Sensitivity | None = None
    """What widths were measured to be worth; None: what the importance of their channels says."""

    @property
    def sizes(self) -> dict[str, int]:
        """Channels of every group."""
        return {name: len(channels) for name, channels in self.value.items()}

    def select(self, budget: Mapping[str, float]) -> Kept:
        """Select by predicted costs, and of each group a part at most unless widths were measured.

        What an intermediate step lacks is left to those after it. In the last one that part is no
        rule if the budget cannot be kept otherwise, and UserError is raised if counted costs cannot
        be kept; latency is as near to its budget as can be, as it is measured afterwards.
        """
        problem, limits = self.problem, self.limits
        costs, whole = problem.costs, problem.whole
        if self.last:
            counted = {kind: most for kind, most in budget.items() if kind != "latency"}
            require_reachable(self.sizes, costs, counted, whole, limits)
        if self.sensitivity:
            curves = self.sensitivity.curves(self.sizes, limits)
        else:
            few = replace(limits, floors=capped(limits.floors, self.sizes, limits.round_to))
            if self.last and not is_reachable(self.sizes, costs, budget, whole, few):
                few = limits
            curves = score_curves(self.value, few)
        widths = select(curves, costs, budget, whole, problem.rules.cost)
        return {
            name: best_channels(self.value[name], limits.locked[name], count)
            for name, count in widths.items()
        }

    def tried(self, budget: Mapping[str, float], trial: Trial) -> Kept:
        """`select`, without cuts that `cut_trial` shows to be too deep."""
        for _ in range(TRIALS):
            kept = replace(self, limits=replace(self.limits, borne=trial.fewest)).select(budget)
            if not trial.limit(kept):
                return kept
        return replace(self, limits=replace(self.limits, borne=trial.fewest)).select(budget)


def step_budget(problem: PruningProblem, step: int) -> dict[str, float]:
    """What may remain after step 1..`steps`: equal steps from all to the whole budget."""
    share = step / problem.rules.steps
    return {kind: 1 - (1 - least) * share for kind, least in problem.budget.items()}


def candidates(
    problem: PruningProblem,
    model: nn.Module,
    groups: list[ChannelGroup],
    scores: ChannelScores,
    step: int,
    seed: int,
    share: float,
) -> Candidates:
    """What step 1..`steps` may remove of `model`, each task's best `share` being locked."""
    rules = problem.rules
    value = criterion_scores(scores, groups, model, rules.criterion, rules.conflict, seed=seed)
    limits = width_limits(rules, groups, problem.floors, locked(scores, groups, share))
    return Candidates(problem, value, limits, step == rules.steps)


def trial_batches(batches: Sequence[Batch]) -> list[Batch]:
    """The first few, decoded."""
    return [batches[number] for number in range(min(TRIAL_BATCHES, len(batches)))]


def with_sensitivity(
    found: Candidates,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Sequence[Batch],
    folder: Path,
    count: NamedCount,
) -> Candidates:
    """`found` with what widths of `model` are worth, if the rules go by that.

    Read from `folder`, as far as it is there, else measured and written.
    """
    problem = found.problem
    if problem.rules.allocation != "sensitivity":
        return found
    measured = measure_sensitivity(
        model,
        groups,
        found.value,
        found.limits,
        problem.costs,
        batches,
        problem.description,
        folder / SENSITIVITY_FILE,
        count,
    )
    return replace(found, sensitivity=measured)


def require_end(found: Candidates) -> None:
    """Raise UserError if the whole budget is out of reach with what a first step has locked."""
    problem = found.problem
    require_reachable(found.sizes, problem.costs, problem.budget, problem.whole, found.limits)


def measured_choice(
    problem: PruningProblem,
    model: nn.Module,
    groups: list[ChannelGroup],
    found: Candidates,
    batches: Sequence[Batch],
    step: int,
    before: PlanStep | None,
    count: NamedCount,
) -> Choice:
    """Select for a step, and unless widths were measured, try the cuts on `batches`.

    Where latency is in the budget, the result is timed in turn with the teacher, and measurements
    correct the prediction: those of the step `before`, and in the last step those of the selection
    itself, which is repeated until it fits. Raises UserError if the last step cannot keep the
    budget, by measurement or by counting.
    """
    rules, budget = problem.rules, step_budget(problem, step)
    trial = Trial(
        model,
        groups,
        found.value,
        batches,
        problem.description,
        None if found.sensitivity else rules.largest_rise,
        rules.round_to,
        count,
    )
    aim = budget.get("latency")
    if aim is None:
        return Choice(found.tried(budget, trial))
    correction = _correction(problem, before)
    best: Choice | None = None
    tried: dict[str, int] = {}
    for _ in range(ATTEMPTS if found.last else 1):
        kept = found.tried(budget | {"latency": aim / correction}, trial)
        counts = {name: len(channels) for name, channels in kept.items()}
        if counts == tried:
            break  # another budget decides, a block is more than what is missing, or no more can go
        tried = counts
        choice = _timed(problem, model, groups, kept, correction, count)
        if best is None or _better(choice, best, aim):
            best = choice
        assert choice.ratio is not None
        if TOO_FAST <= choice.ratio / aim <= TOO_SLOW:
            break
        correction = choice.ratio / _predicted_ratio(problem, counts)
    assert best is not None
    assert best.ratio is not None
    if found.last and not best.ratio <= aim * REFUSED:
        rise = "largest_rise, " if trial.fewest else ""
        raise UserError(
            f"budget.latency: {aim:.3f} cannot be reached: the best selection was "
            f"measured at {best.ratio:.3f} of the unpruned network's latency ({rules.engine} "
            f"takes {correction:.2f} times what its table predicts); give it more, raise {rise}"
            "steps or recovery between them, or lower locked, least_channels or least_share"
        )
    return best


def _timed(
    problem: PruningProblem,
    model: nn.Module,
    groups: list[ChannelGroup],
    kept: Kept,
    correction: float,
    count: NamedCount,
) -> Choice:
    """Time what `kept` leaves; of two measurements, if one is implausible, the more plausible."""
    cut = copy.deepcopy(model).to("cpu")
    keep_channels(cut, groups, {name: channels.tolist() for name, channels in kept.items()})
    counts = {name: len(channels) for name, channels in kept.items()}
    predicted = _predicted_ratio(problem, counts) * correction

    deployed, network = problem.deployed, problem.network
    assert deployed is not None
    assert network is not None

    def measured() -> Choice:
        pair = time_pair(
            deployed(cut),
            network,
            problem.rules.engine,
            partial(count, "timing the selection"),
        )
        return Choice(kept, *pair)

    def misses(choice: Choice) -> float:
        assert choice.ratio is not None
        return abs(math.log(choice.ratio / predicted))

    choice = measured()
    if misses(choice) > math.log(IMPLAUSIBLE):
        choice = min(choice, measured(), key=misses)
    return choice


def _better(one: Choice, other: Choice, aim: float) -> bool:
    """Whether a choice is the slower of those that are fast enough, or else the faster."""
    assert one.ratio is not None
    assert other.ratio is not None
    fits, other_fits = (ratio <= aim * TOO_SLOW for ratio in (one.ratio, other.ratio))
    if fits and other_fits:
        return one.ratio > other.ratio
    return fits or (not other_fits and one.ratio < other.ratio)


def _correction(problem: PruningProblem, step: PlanStep | None) -> float:
    """Measured over predicted latency of a step, both as fractions of the teacher's; 1 before."""
    if step is None:
        return 1.0
    measured = step.remains.get("latency")
    return measured / _predicted_ratio(problem, step.channels) if measured else 1.0


def _predicted_ratio(problem: PruningProblem, counts: Mapping[str, int]) -> float:
    number = KINDS.index("latency")
    return float(problem.costs.total(counts)[number] / problem.whole[number])

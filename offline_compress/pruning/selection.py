"""Which channels stay, so that a network fits its budget and loses the least.

A knapsack filled greedily, from the network as it is down: of all blocks of channels that may go,
the one with the least importance per saved cost goes first. Widths of neighbours shrink meanwhile,
and with them what a block saves, so the first of the ranking is ranked anew before it is taken. As
costs grow with the product of widths, a saving never grows in the course of this: looking at the
first alone is exact.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtc_perception.util.errors import UserError
from offline_compress.pruning.cost import KINDS, LayerCosts, layer_cost
from offline_compress.recipe.compression import Cost

TOLERANCE = 1e-9
"""Relative; of sums of floats that are compared with a budget."""
LARGEST_CUT = 0.25
"""Share of its channels that a group loses in one step, but for one block; see `capped`."""


@dataclass(frozen=True, slots=True, eq=False)
class WidthLimits:
    """How narrow layers may become."""

    floors: Mapping[str, int]
    """Fewest channels of every group."""
    locked: Mapping[str, NDArray[np.bool_]]
    """[C] channels of every group that stay."""
    round_to: int
    """A group that loses channels keeps a multiple of this."""
    borne: Mapping[str, int] = field(default_factory=dict)
    """Fewest channels of groups whose deeper cuts raise a task's loss too much (`cut_trial`)."""

    def fewest(self, group: str) -> int:
        """Channels that a group keeps at least."""
        own = self.floors[group], self.borne.get(group, 0), int(self.locked[group].sum())
        return max(own)


def floor_of(size: int, least_channels: int, least_share: float, round_to: int) -> int:
    """Fewest channels of a group that has `size` in the unpruned network."""
    return min(size, round_up(max(least_channels, least_share * size), round_to))


def round_up(value: float, multiple: int) -> int:
    """The least multiple that is not below `value`."""
    return int(-(-value // multiple)) * multiple


def capped(floors: Mapping[str, int], sizes: Mapping[str, int], round_to: int) -> dict[str, int]:
    """`floors`, raised so that no group of `sizes` loses more than `LARGEST_CUT`, or one block."""
    return {
        name: max(floors[name], size - round_up(LARGEST_CUT * size, round_to))
        for name, size in sizes.items()
    }


def select(
    value: Mapping[str, NDArray[np.float64]],
    costs: LayerCosts,
    budget: Mapping[str, float],
    whole: NDArray[np.float64],
    limits: WidthLimits,
    cost: Cost,
    strict: bool = True,
) -> dict[str, NDArray[np.int64]]:
    """Channels that stay, ascending, of every group of `costs`.

    Args:
        value: [C] importance, not negative, of the channels that each group still has.
        costs: of the network, at any widths.
        budget: fraction of `whole` that may remain of some of `KINDS`; every given one is kept.
        whole: [3] cost of the unpruned network.
        cost: what importance is divided by; none: the number of channels.
        strict: whether a budget that cannot be kept is an error; else it is come as near as can be.

    Raises UserError for such an error, saying what can be kept and which rule is in the way.
    """
    most = np.full(len(KINDS), np.inf)
    for kind, fraction in budget.items():
        most[KINDS.index(kind)] = fraction * whole[KINDS.index(kind)] * (1 + TOLERANCE)
    descent = _Descent(value, costs, limits, cost)
    while (descent.total > most).any() and descent.step():
        pass
    if strict and (descent.total > most).any():
        sizes = {name: len(value[name]) for name in costs.groups}
        raise UserError(_impossible(sizes, costs, budget, whole, limits))
    # Where a budget is not kept, blocks return that bring it no nearer.
    descent.give_back(np.maximum(most, descent.total))
    return {name: descent.kept(name) for name in costs.groups}


class _Descent:
    """A network in the course of a selection."""

    def __init__(
        self,
        value: Mapping[str, NDArray[np.float64]],
        costs: LayerCosts,
        limits: WidthLimits,
        cost: Cost,
    ) -> None:
        self._costs, self._limits = costs, limits
        self._kind = None if cost == "none" else KINDS.index(cost)
        self._counts = {name: len(value[name]) for name in costs.groups}
        self.total = costs.total(self._counts)
        self._width_in, self._width_out = costs.widths(self._counts)
        self._neighbours = {}
        for number, name in enumerate(costs.groups):
            layers = np.flatnonzero(costs.share_in[number] + costs.share_out[number])
            shares = costs.share_in[number, layers], costs.share_out[number, layers]
            self._neighbours[name] = layers, *shares
        # Least valuable first, locked ones not at all.
        self._order = {
            name: order[~limits.locked[name][order]]
            for name in costs.groups
            for order in [np.argsort(value[name], kind="stable")]
        }
        self._sums = {
            name: np.concatenate(([0.0], np.cumsum(value[name][self._order[name]])))
            for name in costs.groups
        }
        self._sizes = dict(self._counts)
        self._taken: list[tuple[str, int]] = []
        self._ranking = [entry for name in costs.groups if (entry := self._rank(name))]
        heapq.heapify(self._ranking)

    def kept(self, name: str) -> NDArray[np.int64]:
        """Channels of a group that are left, ascending."""
        gone = self._order[name][: self._sizes[name] - self._counts[name]]
        return np.setdiff1d(np.arange(self._sizes[name]), gone)

    def step(self) -> bool:
        """Take the next block; False if there is none."""
        while self._ranking:
            name = heapq.heappop(self._ranking)[1]
            entry = self._rank(name)
            assert entry is not None
            if self._ranking and entry > self._ranking[0]:
                heapq.heappush(self._ranking, entry)
                continue
            self._remove(name, entry[2])
            self._taken.append((name, entry[2]))
            if following := self._rank(name):
                heapq.heappush(self._ranking, following)
            return True
        return False

    def give_back(self, most: NDArray[np.float64]) -> None:
        """Return blocks, the last taken first, as far as no cost exceeds `most`."""
        full = set()
        for name, channels in reversed(self._taken):
            if name in full:
                continue
            if (self.total - self._saved(name, -channels) <= most).all():
                self._remove(name, -channels)
            else:
                full.add(name)

    def _rank(self, name: str) -> tuple[float, str, int] | None:
        """Importance per saved cost of a group's next block, and how many channels it has."""
        count, round_to = self._counts[name], self._limits.round_to
        after = (count - 1) // round_to * round_to
        if after < self._limits.fewest(name):
            return None
        gone = self._sizes[name] - count
        value = self._sums[name][gone + count - after] - self._sums[name][gone]
        channels = count - after
        saved = channels if self._kind is None else self._saved(name, channels)[self._kind]
        return (float(value / saved) if saved > 0 else np.inf), name, channels

    def _saved(self, name: str, channels: int) -> NDArray[np.float64]:
        """[3] what the network costs less without so many channels of a group."""
        layers, share_in, share_out = self._neighbours[name]
        coefficients = self._costs.coefficients[layers]
        width_in, width_out = self._width_in[layers], self._width_out[layers]
        before = layer_cost(coefficients, width_in, width_out)
        after = layer_cost(
            coefficients, width_in - channels * share_in, width_out - channels * share_out
        )
        saved: NDArray[np.float64] = (before - after).sum(0)
        return saved

    def _remove(self, name: str, channels: int) -> None:
        self.total = self.total - self._saved(name, channels)
        layers, share_in, share_out = self._neighbours[name]
        self._width_in[layers] -= channels * share_in
        self._width_out[layers] -= channels * share_out
        self._counts[name] -= channels


def is_reachable(
    sizes: Mapping[str, int],
    costs: LayerCosts,
    budget: Mapping[str, float],
    whole: NDArray[np.float64],
    limits: WidthLimits,
) -> bool:
    """Whether groups of `sizes` can keep a budget with every one as narrow as `limits` allow."""
    reached = _least(sizes, costs, whole, limits)
    return all(
        reached[KINDS.index(kind)] <= most * (1 + TOLERANCE) for kind, most in budget.items()
    )


def require_reachable(
    sizes: Mapping[str, int],
    costs: LayerCosts,
    budget: Mapping[str, float],
    whole: NDArray[np.float64],
    limits: WidthLimits,
) -> None:
    """Raise UserError, naming the rule in the way, unless `is_reachable`."""
    if not is_reachable(sizes, costs, budget, whole, limits):
        raise UserError(_impossible(sizes, costs, budget, whole, limits))


def unlocked(sizes: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    """No channel of any group."""
    return {name: np.zeros(size, bool) for name, size in sizes.items()}


def _least(
    sizes: Mapping[str, int], costs: LayerCosts, whole: NDArray[np.float64], limits: WidthLimits
) -> NDArray[np.float64]:
    """[3] fractions of `whole` that remain at the least widths."""
    rounded = {name: round_up(limits.fewest(name), limits.round_to) for name in sizes}
    least = costs.total({name: min(size, rounded[name]) for name, size in sizes.items()})
    fractions: NDArray[np.float64] = least / np.maximum(whole, TOLERANCE)
    return fractions


def _impossible(
    sizes: Mapping[str, int],
    costs: LayerCosts,
    budget: Mapping[str, float],
    whole: NDArray[np.float64],
    limits: WidthLimits,
) -> str:
    """What stands in the way of a budget: the kind that is farthest from it, and each rule."""
    reached = _least(sizes, costs, whole, limits)
    kind = max(budget, key=lambda name: float(reached[KINDS.index(name)]) / budget[name])
    number = KINDS.index(kind)
    alone: dict[str, Any] = {"least_channels and least_share": {"floors": dict.fromkeys(sizes, 1)}}
    if any(own.any() for own in limits.locked.values()):
        alone["locked"] = {"locked": unlocked(sizes)}
    if limits.borne:
        alone["largest_rise"] = {"borne": {}}
    ways = {f"without {rule}": replace(limits, **change) for rule, change in alone.items()}
    if len(alone) > 1:
        together = {name: value for change in alone.values() for name, value in change.items()}
        ways["without any of these"] = replace(limits, **together)
    what = ", ".join(
        f"{_least(sizes, costs, whole, rules)[number]:.3f} {words}" for words, rules in ways.items()
    )
    return (
        f"compress.prune.budget.{kind}: {budget[kind]:.3f} cannot be reached: with every layer as "
        f"narrow as the recipe allows {reached[number]:.3f} of the network remains ({what}; the "
        "rest is in protected layers, or costs the same at any width)"
    )

"""How wide every group of channels stays, so that a network fits its budget and loses the least.

A multiple-choice knapsack (one width for every group) filled from the network as it is down: of all
narrower widths of all groups, the one with the least loss per saved cost comes next. That is the
walk along the lower convex hull of every group's losses over its costs, in other words the optimum
for every price of the cost (Lagrange's multiplier): no widths that save as much as those on the way
lose less, where a group's costs do not depend on the others. They do: widths of neighbours shrink
meanwhile, and with them what a group saves, so the first of the ranking is ranked anew before it is
taken. As costs grow with the product of widths, a saving never grows in the course of this: looking
at the first alone is exact. Budgets are checked with the costs of all widths together.
"""

import heapq
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtc_perception.util.errors import UserError
from offline_compress.pruning.cost import KINDS, LayerCosts
from offline_compress.recipe.compression import Cost

TOLERANCE = 1e-9
"""Relative; of sums of floats that are compared."""
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
    blocks: Set[str] = frozenset()
    """Groups that may lose all channels, locked ones too, and with them their residual block."""

    def fewest(self, group: str) -> int:
        """Channels that a group keeps at least, but where its block goes."""
        own = self.floors[group], self.borne.get(group, 0), int(self.locked[group].sum())
        return max(own)

    def widths(self, group: str, size: int) -> NDArray[np.int64]:
        """[K] numbers of channels that a group of `size` may keep, descending from `size`."""
        narrower = range(
            round_up(size, self.round_to) - self.round_to, self.fewest(group) - 1, -self.round_to
        )
        return np.array([size, *narrower, *([0] if group in self.blocks else [])], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class WidthCurve:
    """What a group loses by becoming narrower."""

    channels: NDArray[np.int64]
    """[K] widths to choose from, descending; the first is the group as it is."""
    losses: NDArray[np.float64]
    """[K] what is lost with each, in a unit of all groups; never less with fewer channels."""


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


def score_curves(
    value: Mapping[str, NDArray[np.float64]], limits: WidthLimits
) -> dict[str, WidthCurve]:
    """Curves whose loss is the importance `value`, [C] of every group, of the channels that go."""
    curves = {}
    for name, own in value.items():
        channels = limits.widths(name, len(own))
        order = _worst_first(own, limits.locked[name])
        lost = np.concatenate(([0.0], np.cumsum(own[order])))
        curves[name] = WidthCurve(channels, lost[len(own) - channels])
    return curves


def best_channels(
    value: NDArray[np.float64], locked: NDArray[np.bool_], count: int
) -> NDArray[np.int64]:
    """The `count` channels of a group that stay, ascending: the locked, then the most valuable."""
    kept = _worst_first(value, locked)[len(value) - count :]
    return np.sort(kept)


def _worst_first(value: NDArray[np.float64], locked: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.lexsort((value, locked))


def select(
    curves: Mapping[str, WidthCurve],
    costs: LayerCosts,
    budget: Mapping[str, float],
    whole: NDArray[np.float64],
    cost: Cost,
) -> dict[str, int]:
    """Channels that every group of `curves` keeps: the least loss that keeps the budget.

    A budget that cannot be kept is come as near to as can be.

    Args:
        curves: of the groups that the network still has.
        costs: of the network, at any widths.
        budget: fraction of `whole` that may remain of some of `KINDS`; every given one is kept.
        whole: [3] cost of the unpruned network.
        cost: what losses are divided by; none: the number of channels.
    """
    most = np.full(len(KINDS), np.inf)
    for kind, fraction in budget.items():
        most[KINDS.index(kind)] = fraction * whole[KINDS.index(kind)] * (1 + TOLERANCE)
    descent = _Descent(curves, costs, cost)
    while (descent.total > most).any() and descent.step():
        pass
    # Where a budget is not kept, what brings it no nearer returns.
    descent.give_back(np.maximum(most, descent.total))
    return dict(descent.counts)


class _Descent:
    """A network in the course of a selection."""

    def __init__(self, curves: Mapping[str, WidthCurve], costs: LayerCosts, cost: Cost) -> None:
        self._curves, self._costs = curves, costs
        self._kind = None if cost == "none" else KINDS.index(cost)
        self._place = dict.fromkeys(curves, 0)
        self.counts = {name: int(curve.channels[0]) for name, curve in curves.items()}
        """Channels that each group has left."""
        self.total = costs.total(self.counts)
        self._width_in, self._width_out = costs.widths(self.counts)
        self._gone = costs.without(self.counts)
        self._neighbours = {}
        for number, name in enumerate(costs.groups):
            share_in, share_out = costs.share_in[number], costs.share_out[number]
            layers = np.flatnonzero(share_in + share_out + costs.blocks[number])
            block = costs.blocks[number, layers]
            self._neighbours[name] = layers, share_in[layers], share_out[layers], block
        self._taken: list[tuple[str, int]] = []
        self._ranking = [entry for name in curves if (entry := self._rank(name))]
        heapq.heapify(self._ranking)

    def step(self) -> bool:
        """Make the next group narrower; False if there is none."""
        while self._ranking:
            name = heapq.heappop(self._ranking)[1]
            entry = self._rank(name)
            assert entry is not None
            if self._ranking and entry > self._ranking[0]:
                heapq.heappush(self._ranking, entry)
                continue
            self._taken.append((name, self._place[name]))
            self._move(name, entry[2])
            if following := self._rank(name):
                heapq.heappush(self._ranking, following)
            return True
        return False

    def give_back(self, most: NDArray[np.float64]) -> None:
        """Undo steps, the last first, as far as no cost exceeds `most`."""
        full = set()
        for name, place in reversed(self._taken):
            if name in full:
                continue
            if (self.total + self._added(name, place) <= most).all():
                self._move(name, place)
            else:
                full.add(name)

    def _rank(self, name: str) -> tuple[float, str, int] | None:
        """Least loss per saved cost of a group's narrower widths, and the place of that width."""
        curve, place = self._curves[name], self._place[name]
        following = curve.channels[place + 1 :]
        if not len(following):
            return None
        lost = curve.losses[place + 1 :] - curve.losses[place]
        if self._kind is None:
            saved = (self.counts[name] - following).astype(np.float64)
        else:
            costs = self._costs_around(name, curve.channels[place:])[:, self._kind]
            saved = costs[0] - costs[1:]
        ratio = np.full(len(following), np.inf)
        np.divide(lost, saved, out=ratio, where=saved > 0)
        least = ratio.min()
        # The widest of equals, for which rounding must not decide.
        first = int(np.argmax(ratio <= least + TOLERANCE * abs(least)))
        return float(ratio[first]), name, place + 1 + first

    def _costs_around(self, name: str, channels: NDArray[np.int64]) -> NDArray[np.float64]:
        """[K, 3] cost of the layers around a group, with each of `channels` [K] left of it."""
        layers, share_in, share_out, block = self._neighbours[name]
        fewer = (self.counts[name] - channels)[:, None]
        width_in = self._width_in[layers] - fewer * share_in
        width_out = self._width_out[layers] - fewer * share_out
        there = ~np.where(block, channels[:, None] == 0, self._gone[layers])
        terms = np.stack((np.ones_like(width_in), width_in, width_out, width_in * width_out), -1)
        costs: NDArray[np.float64] = np.einsum(
            "klt,ltc->kc", terms * there[..., None], self._costs.coefficients[layers]
        )
        return costs

    def _added(self, name: str, place: int) -> NDArray[np.float64]:
        """[3] what the network costs more with another width of a group."""
        other = int(self._curves[name].channels[place])
        now, then = self._costs_around(name, np.array([self.counts[name], other]))
        added: NDArray[np.float64] = then - now
        return added

    def _move(self, name: str, place: int) -> None:
        count = int(self._curves[name].channels[place])
        self.total = self.total + self._added(name, place)
        layers, share_in, share_out, block = self._neighbours[name]
        fewer = self.counts[name] - count
        self._width_in[layers] -= fewer * share_in
        self._width_out[layers] -= fewer * share_out
        self._gone[layers[block]] = count == 0
        self.counts[name], self._place[name] = count, place


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
    least = costs.total({name: int(limits.widths(name, size)[-1]) for name, size in sizes.items()})
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
        f"budget.{kind}: {budget[kind]:.3f} cannot be reached: with every layer as narrow as the "
        f"rules allow {reached[number]:.3f} of the network remains ({what}; the "
        "rest is in protected layers, or costs the same at any width)"
    )

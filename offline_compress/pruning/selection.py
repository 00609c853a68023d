"""Which channels stay, so that a network fits its budget and loses the least.

A knapsack filled greedily, from the full network down: of all blocks of channels that may go, the
one whose importance per saved cost is least goes first. Widths of neighbours shrink meanwhile, and
with them what a block saves; a block that saves less is ranked anew before it is taken. As time and
multiply-accumulates grow with the product of widths, a saving never grows in the course of this, so
that looking at the first of the ranking alone is exact.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtc_perception.errors import UserError
from offline_compress.pruning.cost import KINDS, LayerCosts, layer_cost
from offline_compress.recipe_compression import Cost

TOLERANCE = 1e-9
"""Relative; of sums of floats that are compared with a budget."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How narrow layers may become."""

    floors: Mapping[str, int]
    """Fewest channels of every group."""
    locked: Mapping[str, NDArray[np.bool_]]
    """[C] channels of a group that stay; none of a group that is not named."""
    round_to: int
    """Groups that lose channels end with a multiple of this."""


def floor_of(size: int, least_channels: int, least_share: float, round_to: int) -> int:
    """Fewest channels of a group that has `size` in the unpruned network."""
    return min(size, round_up(max(least_channels, least_share * size), round_to))


def round_up(value: float, multiple: int) -> int:
    """The least multiple that is not below `value`."""
    return int(-(-value // multiple)) * multiple


class _Network:
    """Widths in the course of a selection, and what they cost."""

    def __init__(self, costs: LayerCosts, counts: Mapping[str, int]) -> None:
        self.counts = dict(counts)
        self._costs = costs
        self._cin, self._cout = costs.widths(counts)
        self.total = costs.total(counts)
        touched = (costs.share_in > 0) | (costs.share_out > 0)
        self._parts = {
            name: (
                layers := np.flatnonzero(touched[number]),
                costs.share_in[number, layers],
                costs.share_out[number, layers],
            )
            for number, name in enumerate(costs.groups)
        }

    def saved(self, group: str, channels: int) -> NDArray[np.float64]:
        """[3] what the network costs less without so many channels of a group."""
        layers, share_in, share_out = self._parts[group]
        own = self._costs.coefficients[layers]
        cin, cout = self._cin[layers], self._cout[layers]
        less = layer_cost(own, cin - channels * share_in, cout - channels * share_out)
        saved: NDArray[np.float64] = (layer_cost(own, cin, cout) - less).sum(0)
        return saved

    def remove(self, group: str, channels: int) -> None:
        """Take so many channels of a group away; negative: give back."""
        self.total = self.total - self.saved(group, channels)
        layers, share_in, share_out = self._parts[group]
        self._cin[layers] -= channels * share_in
        self._cout[layers] -= channels * share_out
        self.counts[group] -= channels


def select(
    value: Mapping[str, NDArray[np.float64]],
    costs: LayerCosts,
    budget: Mapping[str, float],
    limits: Limits,
    cost: Cost,
) -> dict[str, NDArray[np.int64]]:
    """Channels that stay, ascending, of every prunable group of `costs`.

    Args:
        value: [C] importance of the channels of each group, C as many as it still has.
        costs: of the network, whatever part of it is left.
        budget: most of each of `KINDS` that may remain; every given one is kept.
        cost: what importance is divided by; none: the number of channels.

    Raises UserError if the budget cannot be kept, saying what can and which rule is in the way.
    """
    network = _Network(costs, {name: len(value[name]) for name in costs.groups})
    going = {name: _order_of_removal(value[name], limits.locked.get(name)) for name in value}
    fewest = {name: _fewest(name, len(value[name]), limits) for name in costs.groups}
    removed: list[tuple[str, int]] = []
    ranking = [
        r
        for name in costs.groups
        if (r := _ranked(name, network, going, value, cost, fewest, limits.round_to))
    ]
    heapq.heapify(ranking)
    while not _fits(network.total, budget):
        if not ranking:
            raise UserError(_impossible(costs, network, budget, limits))
        _, name, channels = heapq.heappop(ranking)
        now = _ranked(name, network, going, value, cost, fewest, limits.round_to)
        assert now is not None
        if ranking and now > ranking[0]:
            heapq.heappush(ranking, now)
            continue
        network.remove(name, channels)
        removed.append((name, channels))
        if following := _ranked(name, network, going, value, cost, fewest, limits.round_to):
            heapq.heappush(ranking, following)
    _give_back(network, removed, budget)
    return {
        name: np.setdiff1d(
            np.arange(len(value[name])), going[name][: len(value[name]) - network.counts[name]]
        )
        for name in costs.groups
    }

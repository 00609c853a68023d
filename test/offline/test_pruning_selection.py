"""Costs of layers against the counters of whole networks; selection against plain greedy search."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mtc_perception.util.errors import UserError
from offline_compress.channels.surgery import keep_channels
from offline_compress.export import count_gmacs, count_parameters
from offline_compress.pruning.cost import KINDS, LayerCosts, layer_costs
from offline_compress.pruning.selection import (
    WidthCurve,
    WidthLimits,
    best_channels,
    capped,
    floor_of,
    require_reachable,
    score_curves,
    select,
)
from offline_compress.recipe.compression import Cost
from support.pruning_tools import (
    FULL_DECODER,
    HEIGHT,
    WIDTH,
    network,
    registry_groups,
    some_channels,
    spec_of,
)


@pytest.mark.parametrize("name", ["mtc_xs", "mtc_s_lite0", "rmt_ppad_n", FULL_DECODER])
def test_costs_are_those_of_the_pruned_network(name: str) -> None:
    model = network(spec_of(name))
    groups = registry_groups(model)
    costs = layer_costs(model, groups, (torch.zeros(1, 3, HEIGHT, WIDTH),))
    assert costs.rest[0] == 0
    kept = some_channels(groups, 0.6, seed=3)
    for group in [group for group in groups if group.block][::2]:
        kept[group.name] = []
    keep_channels(model, groups, kept)
    found = costs.total({group: len(channels) for group, channels in kept.items()})
    assert found[0] == pytest.approx(count_parameters(model), rel=1e-9)
    assert found[1] == pytest.approx(count_gmacs(model, HEIGHT, WIDTH) * 1e9, rel=1e-9)


def chain(widths: tuple[int, ...]) -> LayerCosts:
    """Layers in a row, each of which a group leads to the next; time grows with channels out."""
    layers = len(widths) + 1
    share_in, share_out = np.zeros((2, len(widths), layers))
    for number in range(len(widths)):
        share_out[number, number] = share_in[number, number + 1] = 1
    coefficients = np.zeros((layers, 4, 3))
    coefficients[:, 3, :2] = np.arange(1, layers + 1)[:, None]
    coefficients[:, 2, 2] = 1.0
    return LayerCosts(
        layers=tuple(f"layer{n}" for n in range(layers)),
        groups=tuple(f"group{n}" for n in range(len(widths))),
        sizes=np.array(widths),
        width_in=np.array([3.0, *widths]),
        width_out=np.array([*widths, 1.0]),
        share_in=share_in,
        share_out=share_out,
        blocks=np.zeros((len(widths), layers), bool),
        coefficients=coefficients,
        rest=np.array([0.0, 5.0, 2.0]),
    )


WIDTHS = (24, 40, 12, 64)
SIZES = {f"group{n}": size for n, size in enumerate(WIDTHS)}
FREE = WidthLimits(
    {f"group{n}": 4 for n in range(4)},
    {f"group{n}": np.zeros(size, bool) for n, size in enumerate(WIDTHS)},
    4,
)


def values(seed: int) -> dict[str, NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    return {f"group{n}": generator.random(size) ** 3 for n, size in enumerate(WIDTHS)}


def selected(
    value: Mapping[str, NDArray[np.float64]],
    costs: LayerCosts,
    budget: Mapping[str, float],
    whole: NDArray[np.float64],
    limits: WidthLimits,
    cost: Cost,
) -> dict[str, NDArray[np.int64]]:
    """The channels that stay where their importance says how wide groups are."""
    widths = select(score_curves(value, limits), costs, budget, whole, cost)
    return {
        name: best_channels(value[name], limits.locked[name], width)
        for name, width in widths.items()
    }


def counts_of(kept: Mapping[str, NDArray[np.int64]]) -> dict[str, int]:
    return {name: len(channels) for name, channels in kept.items()}


def plain_greedy(
    value: Mapping[str, NDArray[np.float64]],
    costs: LayerCosts,
    most: NDArray[np.float64],
    limits: WidthLimits,
    kind: int,
) -> dict[str, set[int]]:
    """Every block ranked anew in every step, by the costs of the whole network."""
    kept = {name: set(range(len(own))) for name, own in value.items()}

    def total(changed: Mapping[str, set[int]]) -> NDArray[np.float64]:
        return costs.total({name: len(channels) for name, channels in changed.items()})

    taken: list[tuple[str, set[int]]] = []
    while (total(kept) > most * (1 + 1e-9)).any():
        best: tuple[float, str, set[int]] | None = None
        for name, own in kept.items():
            channels = (len(own) - 1) % limits.round_to + 1
            free = sorted(
                (c for c in own if not limits.locked[name][c]), key=lambda c: value[name][c]
            )
            if len(own) - channels < limits.floors[name] or len(free) < channels:
                continue
            block = set(free[:channels])
            saved = (total(kept) - total({**kept, name: own - block}))[kind]
            ratio = sum(value[name][c] for c in block) / saved
            if best is None or ratio < best[0]:
                best = ratio, name, block
        assert best is not None
        kept[best[1]] = kept[best[1]] - best[2]
        taken.append(best[1:])
    closed = set()
    for name, block in reversed(taken):
        if name not in closed and (total({**kept, name: kept[name] | block}) <= most).all():
            kept[name] = kept[name] | block
        else:
            closed.add(name)
    return kept


@pytest.mark.parametrize("cost", ["parameters", "latency"])
@pytest.mark.parametrize("seed", range(5))
def test_selection_is_greedy_search(seed: int, cost: Cost) -> None:
    costs, value = chain(WIDTHS), values(seed)
    whole = costs.total(dict(zip(costs.groups, WIDTHS, strict=True)))
    generator = np.random.default_rng(seed)
    locked = {name: generator.random(len(own)) < 0.2 for name, own in value.items()}
    limits = replace(FREE, locked=locked)
    budget = {"parameters": 0.55, "latency": 0.8}
    kept = selected(value, costs, budget, whole, limits, cost)
    most = np.array([0.55, np.inf, 0.8]) * whole
    wanted = plain_greedy(value, costs, most, limits, KINDS.index(cost))
    assert {name: set(channels.tolist()) for name, channels in kept.items()} == wanted
    total = costs.total(counts_of(kept))
    assert (total <= most * (1 + 1e-9)).all()


@pytest.mark.parametrize("seed", range(4))
def test_rules_are_kept(seed: int) -> None:
    costs, value = chain(WIDTHS), values(seed)
    whole = costs.total(dict(zip(costs.groups, WIDTHS, strict=True)))
    floors = {name: floor_of(len(own), 10, 0.3, 8) for name, own in value.items()}
    assert floors == {"group0": 16, "group1": 16, "group2": 12, "group3": 24}
    locked = {name: own >= np.quantile(own, 0.7) for name, own in value.items()}
    kept = selected(
        value, costs, {"parameters": 0.5}, whole, WidthLimits(floors, locked, 8), "macs"
    )
    for name, channels in kept.items():
        size = len(value[name])
        assert len(channels) >= floors[name]
        assert len(channels) == size or len(channels) % 8 == 0
        assert np.isin(np.flatnonzero(locked[name]), channels).all()
        gone = np.setdiff1d(np.arange(size), channels)
        free = channels[~locked[name][channels]]
        if len(gone) and len(free):  # The worst go.
            assert value[name][gone].max() <= value[name][free].min()


def test_no_choice_of_blocks_is_better_where_costs_do_not_interact() -> None:
    """Time is a sum over groups here, all blocks take the same: greedy search is exact."""
    costs, value = (
        chain((16, 16, 16)),
        {f"group{n}": np.random.default_rng(n).random(16) for n in range(3)},
    )
    whole = costs.total({"group0": 16, "group1": 16, "group2": 16})
    limits = WidthLimits(
        dict.fromkeys(costs.groups, 4), {n: np.zeros(16, bool) for n in costs.groups}, 4
    )
    kept = selected(value, costs, {"latency": 0.6}, whole, limits, "latency")

    def worth(sizes: tuple[int, ...]) -> float:
        """Importance that remains with the best channels of every group."""
        return sum(np.sort(value[f"group{n}"])[16 - s :].sum() for n, s in enumerate(sizes))

    fitting = [
        sizes
        for sizes in product((4, 8, 12, 16), repeat=3)
        if costs.total({f"group{n}": s for n, s in enumerate(sizes)})[2] <= 0.6 * whole[2]
    ]
    sizes = tuple(counts_of(kept).values())
    assert worth(sizes) == pytest.approx(max(worth(one) for one in fitting))  # type: ignore[arg-type]


def test_what_fits_stays_as_it_is() -> None:
    costs, value = chain(WIDTHS), values(0)
    whole = costs.total(dict(zip(costs.groups, WIDTHS, strict=True)))
    kept = selected(value, costs, {"parameters": 1.0, "macs": 1.0}, whole, FREE, "none")
    assert counts_of(kept) == dict(zip(costs.groups, WIDTHS, strict=True))


def test_a_block_is_given_back_where_the_last_one_took_too_much() -> None:
    """A cheap block goes first, then one that would have been enough by itself."""
    costs = chain((8, 16))
    value = {"group0": np.full(8, 1.0), "group1": np.full(16, 0.1)}
    limits = WidthLimits(
        {"group0": 4, "group1": 12}, {n: np.zeros(len(v), bool) for n, v in value.items()}, 4
    )
    whole = costs.total({"group0": 8, "group1": 16})
    enough = costs.total({"group0": 4, "group1": 16}) / whole
    kept = selected(value, costs, {"parameters": float(enough[0])}, whole, limits, "none")
    assert counts_of(kept) == {"group0": 4, "group1": 16}


def test_an_impossible_budget_names_what_is_in_the_way() -> None:
    costs, value = chain(WIDTHS), values(0)
    whole = costs.total(dict(zip(costs.groups, WIDTHS, strict=True)))
    locked = {name: own >= np.quantile(own, 0.5) for name, own in value.items()}
    with pytest.raises(UserError, match=r"budget\.macs: 0\.200 cannot.*without locked") as caught:
        require_reachable(SIZES, costs, {"macs": 0.2}, whole, replace(FREE, locked=locked))
    least = costs.total({"group0": 12, "group1": 20, "group2": 8, "group3": 32}) / whole
    assert f"allow {least[1]:.3f} of" in str(caught.value)
    assert "without least_channels" in str(caught.value)
    floors = dict.fromkeys(costs.groups, 8)
    sizes = dict(zip(costs.groups, WIDTHS, strict=True))
    limits = replace(FREE, floors=floors)
    with pytest.raises(UserError, match="cannot be reached"):
        require_reachable(sizes, costs, {"parameters": 0.9, "macs": 0.01}, whole, limits)
    require_reachable(sizes, costs, {"parameters": 0.9, "macs": 0.5}, whole, limits)
    borne = replace(limits, borne={"group1": 40, "group3": 60})
    with pytest.raises(UserError, match=r"without largest_rise.*without any of these"):
        require_reachable(sizes, costs, {"macs": 0.3}, whole, borne)


def test_what_cannot_be_kept_is_come_near_to() -> None:
    """As narrow as the limits allow where that saves anything, no error."""
    costs, value = chain(WIDTHS), values(1)
    whole = costs.total(dict(zip(costs.groups, WIDTHS, strict=True)))
    # Time grows with the channels out of the layers; those of group2 shall be free.
    costs.coefficients[2, :, 2] = 0.0
    kept = selected(value, costs, {"latency": 0.1}, whole, FREE, "latency")
    assert counts_of(kept) == {"group0": 4, "group1": 4, "group2": 12, "group3": 4}
    kept = selected(value, costs, {"macs": 0.5}, whole, FREE, "macs")
    assert kept.keys() == value.keys()


@pytest.mark.parametrize(
    ("size", "round_to", "least"), [(64, 8, 48), (20, 8, 12), (16, 8, 8), (8, 8, 4), (10, 1, 7)]
)
def test_a_step_takes_a_quarter_of_a_group_or_a_block(size: int, round_to: int, least: int) -> None:
    assert capped({"group": 4}, {"group": size}, round_to) == {"group": least}


def test_what_is_not_borne_stays() -> None:
    costs, value = chain(WIDTHS), values(2)
    whole = costs.total(dict(zip(costs.groups, WIDTHS, strict=True)))
    limits = replace(FREE, borne={"group1": 36, "group3": 64})
    kept = counts_of(selected(value, costs, {"parameters": 0.8}, whole, limits, "none"))
    assert kept["group1"] >= 36
    assert kept["group3"] == 64


def measured_curves(seed: int) -> dict[str, WidthCurve]:
    """What narrower groups lose, by no means convex."""
    generator = np.random.default_rng(seed)
    curves = {}
    for name, size in SIZES.items():
        channels = FREE.widths(name, size)
        losses = np.cumsum(generator.random(len(channels)) ** 4)
        curves[name] = WidthCurve(channels, losses - losses[0])
    return curves


@given(st.integers(0, 2**32 - 1), st.floats(0.4, 0.95))
def test_no_widths_are_better_by_more_than_one_step(seed: int, budget: float) -> None:
    """Against all widths, where the time of groups adds up: the optimum but for the last step."""
    costs, curves = chain(WIDTHS), measured_curves(seed)
    # Groups of different speed: time grows with the channels out of the layers.
    costs.coefficients[:, 2, 2] = np.random.default_rng(seed).random(len(WIDTHS) + 1) + 0.1
    whole = costs.total(SIZES)
    most = max(budget * whole[2], costs.total(dict.fromkeys(SIZES, 4))[2] * 1.0001)
    widths = select(curves, costs, {"latency": most / whole[2]}, whole, "latency")
    assert costs.total(widths)[2] <= most * (1 + 1e-9)

    def loss(name: str, width: int) -> float:
        curve = curves[name]
        return float(curve.losses[curve.channels.tolist().index(width)])

    places = [range(len(curve.channels)) for curve in curves.values()]
    grid = np.stack(np.meshgrid(*places, indexing="ij"), -1).reshape(-1, len(places))
    lost, time = np.zeros(len(grid)), np.full(len(grid), costs.total(SIZES)[2])
    steps = []
    for number, (name, curve) in enumerate(curves.items()):
        lost += curve.losses[grid[:, number]]
        saved = (SIZES[name] - curve.channels) * costs.coefficients[number, 2, 2]
        time -= saved[grid[:, number]]
        steps.append(np.abs(np.subtract.outer(curve.losses, curve.losses)).max())
    best = lost[time <= most * (1 + 1e-9)].min()
    found = sum(loss(name, width) for name, width in widths.items())
    assert best - 1e-9 <= found <= best + max(steps) + 1e-9


def test_a_block_goes_where_it_costs_more_than_it_is_worth() -> None:
    """Its last channel takes a layer's own time with it, which no narrower width saves."""
    costs = chain((16, 16))
    costs.blocks[1, 1:3] = True
    costs.coefficients[2, 0, 2] = 40.0  # whatever its width
    limits = WidthLimits(
        {"group0": 4, "group1": 4},
        {"group0": np.zeros(16, bool), "group1": np.zeros(16, bool)},
        4,
        blocks={"group1"},
    )
    assert limits.widths("group1", 16).tolist() == [16, 12, 8, 4, 0]
    losses = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    curves = {name: WidthCurve(limits.widths(name, 16), losses) for name in ("group1",)}
    curves["group0"] = WidthCurve(limits.widths("group0", 16), losses[:4])
    whole = costs.total({"group0": 16, "group1": 16})
    first_layer = np.array([3.0 * 16, 3.0 * 16, 16.0])
    assert costs.total({"group0": 16}) == pytest.approx(costs.rest + first_layer)
    widths = select(curves, costs, {"latency": 0.9}, whole, "latency")
    assert widths == {"group0": 16, "group1": 0}
    gone = select({"group0": curves["group0"]}, costs, {"latency": 0.2}, whole, "latency")
    assert costs.total(gone)[2] <= 0.2 * whole[2]
    locked = {**limits.locked, "group1": np.arange(16) < 5}
    assert replace(limits, locked=locked).widths("group1", 16).tolist() == [16, 12, 8, 0]
    sizes = {"group0": 16, "group1": 16}
    require_reachable(sizes, costs, {"latency": 0.1}, whole, limits)
    with pytest.raises(UserError, match="cannot be reached"):
        require_reachable(sizes, costs, {"latency": 0.1}, whole, replace(limits, blocks=set()))


def test_what_was_taken_in_vain_returns() -> None:
    """A block of layers, too, where a cut that was chosen after it is enough by itself."""
    costs = chain((16, 16))
    costs.blocks[1, 1:3] = True
    costs.coefficients[0, 2, 2] = 10.0
    curves = {
        "group0": WidthCurve(np.array([16, 4]), np.array([0.0, 50.0])),
        "group1": WidthCurve(np.array([16, 0]), np.array([0.0, 1.0])),
    }
    sizes = {"group0": 16, "group1": 16}
    whole = costs.total(sizes)
    enough = costs.total({"group0": 4, "group1": 16})[2] / whole[2]
    widths = select(curves, costs, {"latency": enough}, whole, "latency")
    assert widths == {"group0": 4, "group1": 16}

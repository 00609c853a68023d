"""What stays the same throughout a pruning: network, groups, costs and rules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.core.engine import Network
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import NamedCount
from mtc_perception.util.provenance import provenance
from offline_compress.channels.description import Description
from offline_compress.channels.groups import ChannelGroup
from offline_compress.channels.proof import proven_groups
from offline_compress.channels.surgery import shorten_decoder
from offline_compress.evaluation.latency import conditions
from offline_compress.export import count_macs, count_parameters, deployed
from offline_compress.importance.multi_task import description_of
from offline_compress.models.registry import (
    WEIGHTS_FILE,
    load_checkpoint,
    load_spec,
)
from offline_compress.pruning.cost import KINDS, LayerCosts, layer_costs
from offline_compress.pruning.latency_table import (
    LatencyTable,
    Misfit,
    measure_table,
    with_latency,
)
from offline_compress.pruning.plan import Plan
from offline_compress.pruning.selection import WidthLimits, floor_of, require_reachable, unlocked
from offline_compress.recipe.compression import PruningRules
from offline_compress.recipe.recipe import Recipe

TABLE_FILE = "latency.json"


@dataclass(frozen=True, slots=True, eq=False)
class PruningProblem:
    """A network and how it is pruned."""

    rules: PruningRules
    description: Description
    """Of the network, pruned or not."""
    name: str
    sha256: str
    """Of the unpruned network's weights."""
    model: nn.Module
    """The network on the CPU, in eval mode, its query decoder as short as it shall be."""
    groups: list[ChannelGroup]
    """Those of `model`."""
    floors: dict[str, int]
    """Fewest channels of every group."""
    inputs: tuple[Any, ...]
    """Of the forward pass that costs are those of."""
    costs: LayerCosts
    whole: NDArray[np.float64]
    """[3] cost of the unpruned network; 0 milliseconds without a latency table."""
    budget: dict[str, float]
    """What may remain in the end, by kind, as fractions of the unpruned network."""
    deployed: Callable[[nn.Module], Network] | None = None
    """A network as engines load it, to be timed; None: no latencies."""
    network: Network | None = None
    """The unpruned network, deployed."""
    decoder_layers: int | None = None
    decoder_queries: int | None = None
    """Layers and queries of the query decoder that remain; None: all."""

    def empty_plan(self) -> Plan:
        """The plan before any step."""
        return Plan(
            teacher=self.name,
            teacher_sha256=self.sha256,
            decoder_layers=self.decoder_layers,
            decoder_queries=self.decoder_queries,
        )


def group_floors(rules: PruningRules, groups: Sequence[ChannelGroup]) -> dict[str, int]:
    """Fewest channels of every group."""
    return {
        group.name: floor_of(group.size, rules.least_channels, rules.least_share, rules.round_to)
        for group in groups
    }


def width_limits(
    rules: PruningRules,
    groups: Sequence[ChannelGroup],
    floors: Mapping[str, int],
    locked: Mapping[str, NDArray[np.bool_]],
) -> WidthLimits:
    """How narrow `groups` may become with these channels locked."""
    blocks = {group.name for group in groups if group.block}
    return WidthLimits(
        floors,
        locked,
        rules.round_to,
        blocks=blocks if rules.allocation == "sensitivity" else frozenset(),
    )


def problem_of(
    rules: PruningRules,
    description: Description,
    groups: list[ChannelGroup],
    model: nn.Module,
    unpruned: nn.Module,
    inputs: tuple[Any, ...],
    name: str,
    sha256: str,
) -> PruningProblem:
    """A problem without latencies. `unpruned` is `model`, whose `groups` are given, before layers
    of a decoder were removed.

    Raises UserError for a budget of parameters or multiply-accumulates that cannot be reached.
    """
    whole = np.array([count_parameters(unpruned), count_macs(unpruned, inputs), 0.0])
    problem = PruningProblem(
        rules=rules,
        description=description,
        name=name,
        sha256=sha256,
        model=model,
        groups=groups,
        floors=group_floors(rules, groups),
        inputs=inputs,
        costs=layer_costs(model, groups, inputs),
        whole=whole,
        budget=rules.budget.model_dump(exclude_none=True),
    )
    # What needs no measuring is known at once.
    counted = {kind: most for kind, most in problem.budget.items() if kind != "latency"}
    _require(problem, counted)
    return problem


def _require(problem: PruningProblem, budget: Mapping[str, float]) -> None:
    costs = problem.costs
    sizes = dict(zip(costs.groups, costs.sizes.tolist(), strict=True))
    limits = width_limits(problem.rules, problem.groups, problem.floors, unlocked(sizes))
    require_reachable(sizes, costs, budget, problem.whole, limits)


def open_problem(
    recipe: Recipe, teacher: Path, out: Path, measures: bool, count: NamedCount
) -> PruningProblem:
    """Load the teacher and find out what its layers cost.

    The latency table is read from `out`; if it is not there and `measures`, it is measured first.
    Raises UserError for a teacher that does not load or cannot be followed, and a budget that
    cannot be reached.
    """
    pruning = recipe.compression().prune
    spec, unpruned = load_spec(teacher), load_checkpoint(teacher)
    size, shorter = (spec.height, spec.width), (pruning.decoder_layers, pruning.decoder_queries)
    model, _ = shorten_decoder(unpruned, spec, *shorter)
    description = description_of(model, recipe.mask_loss, pruning.protect)
    problem = problem_of(
        pruning,
        description,
        proven_groups(model, description),
        model,
        unpruned,
        (torch.zeros(1, 3, *size),),
        spec.name,
        sha256_hex((teacher / WEIGHTS_FILE).read_bytes()),
    )
    deploy = partial(deployed, height=size[0], width=size[1])
    path = out / TABLE_FILE
    problem = with_latencies(problem, unpruned, deploy, path, measures, count)
    return replace(problem, decoder_layers=shorter[0], decoder_queries=shorter[1])


def with_latencies(
    problem: PruningProblem,
    unpruned: nn.Module,
    deploy: Callable[[nn.Module], Network],
    path: Path,
    measures: bool,
    count: NamedCount,
) -> PruningProblem:
    """The problem with what timing needs and, if its rules go by latency, with the times of the
    table at `path`; if that is not there and `measures`, it is measured first.

    `deploy` makes of a network what engines load. Raises UserError for a budget that cannot be
    reached, and for a table of something else.
    """
    rules, costs, whole = problem.rules, problem.costs, problem.whole.copy()
    network = deploy(unpruned)
    if rules.cost == "latency" or rules.budget.latency is not None:
        if measures and not path.exists():
            measured = partial(
                measure_table,
                problem.model,
                problem.groups,
                deploy,
                rules.engine,
                rules.round_to,
                unpruned,
                count,
            )
            table = measured()
            try:
                with_latency(costs, table)
            except Misfit:
                table = measured()
                with_latency(costs, table)
            table.save(path)
        height, width = problem.inputs[0].shape[2:]
        table = _fitting_table(path, costs, rules, (height, width), measures)
        costs = with_latency(costs, table)
        number = KINDS.index("latency")
        full = costs.total(table.samples[0].counts)[number]
        whole[number] = full * table.unpruned_ms / table.samples[0].total_ms
    problem = replace(problem, costs=costs, whole=whole, deployed=deploy, network=network)
    _require(problem, problem.budget)
    return problem


def _fitting_table(
    path: Path, costs: LayerCosts, rules: PruningRules, size: tuple[int, int], measures: bool
) -> LatencyTable:
    """The table at `path`, refused if made for something else, or by another machine than one that
    `measures` the selections."""
    table = LatencyTable.load(path)
    sizes = dict(zip(costs.groups, costs.sizes.tolist(), strict=True))
    here = {"cpu": provenance()["machine"]["cpu"], "threads": conditions()["threads"]}
    if (
        (table.engine, table.height, table.width) != (rules.engine, *size)
        or table.samples[0].counts != sizes
        or (measures and {name: table.measured.get(name) for name in here} != here)
    ):
        raise UserError(
            f"{path} was measured for another network, engine, image size or machine; delete it"
        )
    return table

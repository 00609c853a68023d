"""What stays the same throughout a pruning: teacher, groups, costs and rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
from offline_compress.channels.groups import ChannelGroup, channel_groups
from offline_compress.channels.surgery import keep_decoder_layers
from offline_compress.evaluation.latency import conditions
from offline_compress.export import count_gmacs, count_parameters, deployed
from offline_compress.importance.multi_task import description_of
from offline_compress.models.registry import (
    WEIGHTS_FILE,
    ModelSpec,
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
from offline_compress.recipe.compression import Pruning
from offline_compress.recipe.recipe import Recipe

TABLE_FILE = "latency.json"


@dataclass(frozen=True, slots=True, eq=False)
class PruningProblem:
    """A teacher and how it is pruned."""

    pruning: Pruning
    description: Description
    """Of the network, pruned or not."""
    name: str
    """Of the teacher's network."""
    sha256: str
    """Of the teacher's weights file."""
    spec: ModelSpec
    """Of `model`."""
    model: nn.Module
    """The teacher on the CPU, in eval mode, with as many decoder layers as shall remain."""
    groups: list[ChannelGroup]
    """Those of `model`."""
    floors: dict[str, int]
    """Fewest channels of every group."""
    costs: LayerCosts
    whole: NDArray[np.float64]
    """[3] cost of the unpruned network; 0 milliseconds without a latency table."""
    network: Network
    """The unpruned network as engines load it."""
    budget: dict[str, float]
    """What may remain in the end, by kind, as fractions of the unpruned network."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.spec.height, self.spec.width

    def empty_plan(self) -> Plan:
        """The plan before any step."""
        return Plan(
            teacher=self.name,
            teacher_sha256=self.sha256,
            decoder_layers=self.pruning.decoder_layers,
        )


def width_limits(
    pruning: Pruning,
    groups: Sequence[ChannelGroup],
    floors: Mapping[str, int],
    locked: Mapping[str, NDArray[np.bool_]],
) -> WidthLimits:
    """How narrow `groups` may become with these channels locked."""
    blocks = {group.name for group in groups if group.block}
    return WidthLimits(
        floors,
        locked,
        pruning.round_to,
        blocks=blocks if pruning.allocation == "sensitivity" else frozenset(),
    )


def open_problem(
    recipe: Recipe, teacher: Path, out: Path, measures: bool, count: NamedCount
) -> PruningProblem:
    """Load the teacher and find out what its layers cost.

    The latency table is read from `out`; if it is not there and `measures`, it is measured first.
    Raises UserError for a teacher that does not load, and a budget that cannot be reached.
    """
    pruning = recipe.compression().prune
    spec, unpruned = load_spec(teacher), load_checkpoint(teacher)
    name, size = spec.name, (spec.height, spec.width)
    model = unpruned
    if pruning.decoder_layers is not None:
        model, spec = keep_decoder_layers(unpruned, spec, pruning.decoder_layers)
    description = description_of(model, recipe.mask_loss, pruning.protect)
    groups = channel_groups(model, description)
    floors = {
        group.name: floor_of(
            group.size, pruning.least_channels, pruning.least_share, pruning.round_to
        )
        for group in groups
    }
    costs = layer_costs(model, groups, (torch.zeros(1, 3, *size),))
    whole = np.array([count_parameters(unpruned), count_gmacs(unpruned, *size) * 1e9, 0.0])
    budget = pruning.budget.model_dump(exclude_none=True)
    # What needs no measuring is known at once.
    counted = {kind: most for kind, most in budget.items() if kind != "latency"}
    sizes = dict(zip(costs.groups, costs.sizes.tolist(), strict=True))
    limits = width_limits(pruning, groups, floors, unlocked(sizes))
    require_reachable(sizes, costs, counted, whole, limits)
    if pruning.cost == "latency" or pruning.budget.latency is not None:
        path = out / TABLE_FILE
        if measures and not path.exists():
            measured = partial(
                measure_table,
                model,
                groups,
                size,
                pruning.engine,
                pruning.round_to,
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
        table = _fitting_table(path, costs, pruning, size, measures)
        costs = with_latency(costs, table)
        number = KINDS.index("latency")
        full = costs.total(table.samples[0].counts)[number]
        whole[number] = full * table.unpruned_ms / table.samples[0].total_ms
    require_reachable(sizes, costs, budget, whole, limits)
    return PruningProblem(
        pruning=pruning,
        description=description,
        name=name,
        sha256=sha256_hex((teacher / WEIGHTS_FILE).read_bytes()),
        spec=spec,
        model=model,
        groups=groups,
        floors=floors,
        costs=costs,
        whole=whole,
        network=deployed(unpruned, *size),
        budget=budget,
    )


def _fitting_table(
    path: Path, costs: LayerCosts, pruning: Pruning, size: tuple[int, int], measures: bool
) -> LatencyTable:
    """The table at `path`, refused if made for something else, or by another machine than one that
    `measures` the selections."""
    table = LatencyTable.load(path)
    sizes = dict(zip(costs.groups, costs.sizes.tolist(), strict=True))
    here = {"cpu": provenance()["machine"]["cpu"], "threads": conditions()["threads"]}
    if (
        (table.engine, table.height, table.width) != (pruning.engine, *size)
        or table.samples[0].counts != sizes
        or (measures and {name: table.measured.get(name) for name in here} != here)
    ):
        raise UserError(
            f"{path} was measured for another network, engine, image size or machine; delete it"
        )
    return table

"""A latency table: what every layer takes on the target engine, as a function of its widths.

The whole network is profiled at several widths, the same for all layers and mixed, so that each
layer is seen at several pairs of channels in and out. What lies between is fitted, per layer, with
non-negative coefficients of 1, cin, cout and cin cout; what the profiler does not see (calls, gaps
between layers) by a factor and a constant, from the time of the whole network without a profiler.
"""

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import nn

from mtc_perception.core.engine import Network
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import Count, NamedCount
from mtc_perception.util.provenance import provenance
from offline_compress.channels.groups import ChannelGroup
from offline_compress.channels.surgery import keep_channels
from offline_compress.evaluation.latency import Key, Latencies, conditions, interleaved
from offline_compress.pruning.cost import LayerCosts, layer_cost
from offline_compress.pruning.profiler import EngineName, layer_times_ms, profiler, typical_ms
from offline_compress.pruning.selection import round_up

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Widths at which the network is profiled."""
MIXED = 4
"""Networks beside those whose groups have widths of `SHARES` at random."""
ROUNDS = 20
FEWEST_ROUNDS = 5
LIMIT_S = 60.0
"""Slow networks are profiled no longer than this, but `FEWEST_ROUNDS` times."""

LARGEST_MISFIT = 0.2
"""Root mean square of the relative errors with which a fit gives the networks it was made of."""


@dataclass(frozen=True, slots=True)
class LatencySample:
    """One network that was measured."""

    counts: dict[str, int]
    """Channels of each prunable group."""
    total_ms: float
    """Time of one image, without a profiler."""
    layers_ms: dict[str, float]
    """Time of each layer, by the profiler; `""`: what belongs to none."""


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Measurements on one machine."""

    engine: EngineName
    height: int
    width: int
    samples: list[LatencySample]
    """The first one at full widths."""
    unpruned_ms: float
    """Time of one image of the unpruned network; more than the first sample's where that has fewer
    decoder layers."""
    measured: dict[str, Any]
    """Machine and conditions."""

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_text_atomic(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "LatencyTable":
        """Read what `save` wrote. Raises UserError with the reason if that cannot be."""
        try:
            content = json.loads(path.read_text())
            samples = [LatencySample(**sample) for sample in content.pop("samples")]
            return cls(**content, samples=samples)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is no latency table ({error}); delete it") from None


class Misfit(UserError):
    """Times that no sum of layers explains."""


def with_latency(costs: LayerCosts, table: LatencyTable) -> LayerCosts:
    """`costs` with the time of layers fitted to a table of the same network.

    Raises Misfit for times that do not follow from the layers' widths: something else disturbed
    them.
    """
    widths = [costs.widths(sample.counts) for sample in table.samples]
    coefficients, times_ms = {}, np.zeros(len(table.samples))
    for number, layer in enumerate(costs.layers):
        measured_ms = np.array([s.layers_ms.get(layer, 0.0) for s in table.samples])
        if not measured_ms.any():
            continue
        width_in = np.array([pair[0][number] for pair in widths])
        width_out = np.array([pair[1][number] for pair in widths])
        fit = fit_layer(width_in, width_out, measured_ms)
        coefficients[layer] = fit
        repeated = np.repeat(fit[None, :, None], len(measured_ms), 0)
        times_ms += layer_cost(repeated, width_in, width_out)[:, 0]
    total_ms = np.array([sample.total_ms for sample in table.samples])
    terms = np.stack((times_ms, np.ones_like(times_ms)), 1) / total_ms[:, None]
    factor, rest_ms = nnls(terms, np.ones_like(total_ms))[0]
    errors = terms @ (factor, rest_ms) - 1
    misfit = float(np.sqrt(np.mean(errors**2)))
    if not (factor > 0 and misfit < LARGEST_MISFIT):
        raise Misfit(
            "the machine was too busy to measure latency: the times of "
            f"{len(total_ms)} networks do not follow from their widths (error {misfit:.0%}, factor "
            f"{factor:.2g}); end other programs and start again"
        )
    return costs.with_latency({k: v * factor for k, v in coefficients.items()}, float(rest_ms))


def fit_layer(
    width_in: NDArray[np.float64], width_out: NDArray[np.float64], time_ms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[4] non-negative coefficients of 1, cin, cout, cin cout of S measurements [S] of a layer.

    Least squares of errors relative to the measured time, or to a tenth of the longest one.
    """
    terms = np.stack((np.ones_like(width_in), width_in, width_out, width_in * width_out), 1)
    scale = np.maximum(terms.max(0), 1.0)  # or the solver sees columns of very different size
    weight = 1.0 / np.maximum(time_ms, 0.1 * time_ms.max())
    fitted: NDArray[np.float64] = nnls(terms / scale * weight[:, None], time_ms * weight)[0]
    return fitted / scale


def measure_table(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    deployed: Callable[[nn.Module], Network],
    engine: EngineName,
    round_to: int,
    unpruned: nn.Module,
    count: NamedCount,
) -> LatencyTable:
    """Profile copies of `model` at several widths, `deployed` as the engine loads them.

    `unpruned` is the network before its decoder layers were removed; `model` itself if none were.
    Raises EngineError if the engine is not available.
    """
    wanted = sample_counts(groups, round_to)
    graphs: list[Network] = []
    networks: list[nn.Module] = []
    for number, counts in enumerate(wanted):
        count("exporting networks", number, len(wanted))
        narrow = copy.deepcopy(model)
        keep_channels(narrow, groups, {name: range(count) for name, count in counts.items()})
        networks.append(narrow)
        graphs.append(deployed(narrow))
    others = [] if unpruned is model else [deployed(unpruned)]
    total_ms = time_networks(graphs + others, engine, partial(count, "timing networks"))
    unpruned_ms = total_ms.pop() if others else total_ms[0]
    size = graphs[0].height, graphs[0].width
    profilers = [profiler(engine, graph.model, *size) for graph in graphs]
    begin_s = time.monotonic()
    for done in range(ROUNDS):
        if done >= FEWEST_ROUNDS and time.monotonic() - begin_s > LIMIT_S:
            break
        count("profiling networks", done, ROUNDS)
        for profiled in profilers:
            profiled.run()
    samples = []
    for counts, time_ms, graph, network, profiled in zip(
        wanted, total_ms, graphs, networks, profilers, strict=True
    ):
        layers_ms = layer_times_ms(
            profiled.node_times_ms(), onnx.load_model_from_string(graph.model), network
        )
        samples.append(LatencySample(counts, time_ms, layers_ms))
    machine = provenance()["machine"]
    return LatencyTable(engine, *size, samples, unpruned_ms, machine | conditions())


def sample_counts(groups: Sequence[ChannelGroup], round_to: int) -> list[dict[str, int]]:
    """Widths of the networks that a table is made of: those of `SHARES`, then mixed ones."""
    prunable = [group for group in groups if not group.protected]
    generator = np.random.default_rng(0)
    shares = [[share] * len(prunable) for share in SHARES]
    shares += [list(generator.choice(SHARES, len(prunable))) for _ in range(MIXED)]
    return [
        {
            group.name: min(group.size, round_up(share * group.size, round_to))
            for group, share in zip(prunable, row, strict=True)
        }
        for row in shares
    ]


def time_networks(networks: Sequence[Network], engine: EngineName, count: Count) -> list[float]:
    """Milliseconds of one image of each network, all in turn. Raises EngineError."""
    return _typical_ms(interleaved(_keyed(networks, engine), count))


def time_pair(
    own: Network, other: Network, engine: EngineName, count: Count
) -> tuple[float, float, float]:
    """Milliseconds of one image of two networks in turn, and the ratio of own to other.

    The ratio is that of `Latencies.ratio`, not of these times. Raises EngineError.
    """
    keyed = _keyed([own, other], engine)
    latencies = interleaved(keyed, count)
    own_ms, other_ms = _typical_ms(latencies)
    return own_ms, other_ms, latencies.ratio(*keyed)


def _keyed(networks: Sequence[Network], engine: EngineName) -> dict[Key, Network]:
    return {(str(number), str(engine)): network for number, network in enumerate(networks)}


def _typical_ms(latencies: Latencies) -> list[float]:
    """Of each network."""
    return [
        typical_ms([time for block in blocks for time in block])
        for blocks in latencies.blocks_ms.values()
    ]

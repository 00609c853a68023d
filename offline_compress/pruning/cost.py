"""What every layer costs as a function of its widths: parameters, multiply-accumulates and time.

Each of the three is taken as `a + b cin + c cout + d cin cout` of a layer's channels in and out.
For parameters and multiply-accumulates of a convolution that is exact; for time it is the fit of
measurements (latency_table.py), with no coefficient below 0, so that fewer channels never cost
more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from offline_compress.channels.groups import ChannelGroup
from offline_compress.export import count_macs, count_parameters
from offline_compress.models.blocks import RepConv

KINDS = ("parameters", "macs", "latency")
"""Order of the last axis of every cost: parameters as deployed, multiply-accumulates of one image,
milliseconds of one image."""

Convolution = nn.modules.conv._ConvNd


@dataclass(frozen=True, slots=True, eq=False)
class LayerCosts:
    """Costs of a network of L layers whose G prunable groups have some number of channels each."""

    layers: tuple[str, ...]
    groups: tuple[str, ...]
    sizes: NDArray[np.int64]
    """[G] channels of the groups at the layers' full widths."""
    width_in: NDArray[np.float64]
    """[L] channels into the layers at full widths."""
    width_out: NDArray[np.float64]
    """[L]"""
    share_in: NDArray[np.float64]
    """[G, L] channels into a layer that go with one channel of a group."""
    share_out: NDArray[np.float64]
    """[G, L]"""
    blocks: NDArray[np.bool_]
    """[G, L] layers that go with the last channel of a group: its residual block."""
    coefficients: NDArray[np.float64]
    """[L, 4, 3] of 1, cin, cout and cin cout, for each of `KINDS`."""
    rest: NDArray[np.float64]
    """[3] what does not depend on widths."""

    def widths(self, counts: Mapping[str, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Channels into and out of every layer, [L] each, with `counts` channels of the groups."""
        removed = self.sizes - self._counted(counts)
        return (
            self.width_in - removed @ self.share_in,
            self.width_out - removed @ self.share_out,
        )

    def total(self, counts: Mapping[str, int]) -> NDArray[np.float64]:
        """[3] of the network with `counts` channels of the groups; absent ones have none left."""
        costs = layer_cost(self.coefficients, *self.widths(counts))
        total: NDArray[np.float64] = costs[~self.without(counts)].sum(0) + self.rest
        return total

    def without(self, counts: Mapping[str, int]) -> NDArray[np.bool_]:
        """[L] the layers that are gone with so many channels of the groups."""
        gone: NDArray[np.bool_] = self.blocks[self._counted(counts) == 0].any(axis=0)
        return gone

    def _counted(self, counts: Mapping[str, int]) -> NDArray[np.int64]:
        return np.array([counts.get(name, 0) for name in self.groups], np.int64)

    def with_latency(
        self, coefficients: Mapping[str, NDArray[np.float64]], rest_ms: float
    ) -> "LayerCosts":
        """The same with the time of layers, [4] milliseconds each; of others it is 0."""
        changed, rest = self.coefficients.copy(), self.rest.copy()
        kind = KINDS.index("latency")
        changed[:, :, kind], rest[kind] = 0.0, rest_ms
        for number, layer in enumerate(self.layers):
            if layer in coefficients:
                changed[number, :, kind] = coefficients[layer]
        return replace(self, coefficients=changed, rest=rest)


def layer_cost(
    coefficients: NDArray[np.float64],
    width_in: NDArray[np.float64],
    width_out: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[L, 3] cost of layers with `coefficients` [L, 4, 3] at widths [L]."""
    terms = np.stack((np.ones_like(width_in), width_in, width_out, width_in * width_out), 1)
    cost: NDArray[np.float64] = np.einsum("lt,ltk->lk", terms, coefficients)
    return cost


def layer_costs(
    model: nn.Module, groups: Sequence[ChannelGroup], inputs: tuple[Any, ...]
) -> LayerCosts:
    """Costs of a forward pass of `model`, on the CPU, with `inputs`; without time.

    Parameters and multiply-accumulates at full widths are exactly those of `count_parameters` and
    `count_macs`.
    """
    positions = _positions(model, inputs)
    names, coefficients, widths = [], [], []
    for name, own in _layers(model):
        names.append(name)
        sizes = _widths(own, name, groups)
        widths.append(sizes)
        coefficients.append(_coefficients(own, sizes, positions.get(name, 0.0)))
    index = {name: number for number, name in enumerate(names)}
    prunable = [group for group in groups if not group.protected]
    shares = {side: np.zeros((len(prunable), len(names))) for side in ("in", "out")}
    for number, group in enumerate(prunable):
        for part in group.slices:
            if part.layer in index:
                shares[part.side][number, index[part.layer]] += part.index.shape[1]
    costs = LayerCosts(
        layers=tuple(names),
        groups=tuple(group.name for group in prunable),
        sizes=np.array([group.size for group in prunable], np.int64),
        width_in=np.array([pair[0] for pair in widths], np.float64),
        width_out=np.array([pair[1] for pair in widths], np.float64),
        share_in=shares["in"],
        share_out=shares["out"],
        blocks=np.array(
            [
                [bool(group.block) and name.startswith(f"{group.block}.") for name in names]
                for group in prunable
            ],
            bool,
        ).reshape(len(prunable), len(names)),
        coefficients=np.stack(coefficients),
        rest=np.zeros(len(KINDS)),
    )
    counted = costs.total({group.name: group.size for group in prunable})
    whole = np.array([count_parameters(model), count_macs(model, inputs), 0.0])
    return replace(costs, rest=whole - counted)


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """The layers that are deployed, and the parameters that stand in none, by dotted name."""
    folded = [f"{name}.point." for name, part in model.named_modules() if isinstance(part, RepConv)]
    for name, module in model.named_modules():
        if name.startswith(tuple(folded)):
            continue  # `fuse` adds it to the branch beside it
        # A convolution may hold a part of its own, such as its padding.
        if isinstance(module, (Convolution, nn.Linear)) or not any(True for _ in module.children()):
            if any(True for _ in module.parameters()):
                yield name, module
        else:
            for part, parameter in module.named_parameters(recurse=False):
                yield f"{name}.{part}", parameter


def _widths(
    own: nn.Module | nn.Parameter, name: str, groups: Sequence[ChannelGroup]
) -> tuple[int, int]:
    """Channels into and out of a layer; of one without channels in, those that groups cut."""
    if isinstance(own, Convolution):
        return own.in_channels, own.out_channels
    if isinstance(own, nn.Linear):
        return own.in_features, own.out_features
    cut = [s.index.size for g in groups for s in g.slices if s.layer == name and s.side == "out"]
    return 0, sum(cut) or 1


def _coefficients(
    own: nn.Module | nn.Parameter, widths: tuple[int, int], positions: float
) -> NDArray[np.float64]:
    """[4, 3] of a layer that is applied at so many positions of an image."""
    result = np.zeros((4, len(KINDS)))
    width_in, width_out = widths
    if isinstance(own, (Convolution, nn.Linear)):
        weights = own.weight.numel()
        grouped = isinstance(own, Convolution) and own.groups > 1
        # A filter of a group has as many channels in as before, whatever the width.
        term, per = (2, weights / width_out) if grouped else (3, weights / width_in / width_out)
        result[term, 0] += per
        result[term, 1] += per * positions
        if own.bias is not None:
            result[2, 0] += 1
    elif isinstance(own, _BatchNorm):
        result[2, 0] = 1  # folded: a bias
    else:
        parameters = [own] if isinstance(own, nn.Parameter) else own.parameters()
        result[2, 0] = sum(p.numel() for p in parameters) / width_out
    return result


@torch.no_grad()
def _positions(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, float]:
    """How often a forward pass applies the weights of each layer."""
    positions: dict[str, float] = {}
    handles = []

    def counted(name: str) -> object:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if isinstance(layer, _ConvTransposeNd):
                number = inputs[0].numel() / layer.in_channels
            elif isinstance(layer, Convolution):
                number = output.numel() / layer.out_channels
            else:
                number = output.numel() / output.shape[-1]
            positions[name] = positions.get(name, 0.0) + number

        return hook

    for name, module in model.named_modules():
        if isinstance(module, (Convolution, nn.Linear)):
            handles.append(module.register_forward_hook(counted(name)))  # type: ignore[arg-type]
    training = model.training
    model.eval()(*inputs)
    model.train(training)
    for handle in handles:
        handle.remove()
    return positions

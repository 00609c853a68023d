"""Cutting channels, residual blocks and decoder layers out of a network."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from mtc_perception.util.errors import UserError
from offline_compress.channels.groups import ChannelGroup, Side
from offline_compress.models.decoder import QueryDecoder
from offline_compress.models.registry import ModelSpec
from offline_compress.models.shapes import remove_blocks, replace_tensors

Kept = Mapping[str, Sequence[int]]
"""Group -> its channels that remain, in any order; none: its residual block goes. Groups that are
absent keep all."""


def keep_channels(model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept) -> None:
    """Remove all channels of the groups in `kept` but those, in place; the rest keep their order.

    A residual block whose own channels all go becomes the identity.

    `groups` are those of `channel_groups(model)`, and no longer hold afterwards; an optimiser made
    before still holds the old parameters. Raises UserError, before anything is changed, for a
    group or channel that does not exist, a group that would be empty, or a protected one.
    """
    chosen = _checked(groups, kept)
    remain: dict[tuple[str, Side], NDArray[np.bool_]] = {}
    for group in groups:
        if group.name not in chosen:
            continue
        removed = np.setdiff1d(np.arange(group.size), chosen[group.name])
        for part in group.slices:
            key = part.layer, part.side
            if key not in remain:
                tensor, dim = next(tensors_of_layer(model, *key))
                remain[key] = np.ones(tensor_of(model, tensor).shape[dim], bool)
            remain[key][part.index[removed]] = False
    cut: dict[str, torch.Tensor] = {}
    for (layer, side), mask in remain.items():
        for tensor, dim in tensors_of_layer(model, layer, side):
            whole = cut.get(tensor, tensor_of(model, tensor).detach())
            index = torch.from_numpy(np.flatnonzero(mask)).to(whole.device)
            cut[tensor] = whole.index_select(dim, index)
    replace_tensors(model, cut)
    remove_blocks(model, _emptied(groups, kept))


def _emptied(groups: Sequence[ChannelGroup], kept: Kept) -> list[str]:
    """Residual blocks of which `kept` leaves no channel."""
    return [group.block for group in groups if group.block and not len(kept.get(group.name, [0]))]


def _checked(groups: Sequence[ChannelGroup], kept: Kept) -> dict[str, NDArray[np.int64]]:
    """The groups that lose channels, with those that remain, ascending."""
    known = {group.name: group for group in groups}
    chosen = {}
    for name, given in kept.items():
        if name not in known:
            raise UserError(f"the network has no channel group {name!r}")
        group = known[name]
        channels = np.unique(np.asarray(given, np.int64))
        if len(channels) != len(given) or not (len(channels) or group.block):
            raise UserError(f"{name} must keep at least one channel, and each is named once")
        if len(channels) and (channels[0] < 0 or channels[-1] >= group.size):
            raise UserError(f"{name} has the channels 0 to {group.size - 1}, no others")
        if len(channels) < group.size:
            if group.protected:
                raise UserError(f"{name} keeps all its channels: {group.protected}")
            chosen[name] = channels
    return chosen


def tensor_of(model: nn.Module, name: str) -> torch.Tensor:
    """A parameter or buffer, whether files hold it or not, by dotted name."""
    layer, _, key = name.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(layer), key)
    return tensor


def tensors_of_layer(model: nn.Module, layer: str, side: Side) -> Iterator[tuple[str, int]]:
    """Tensors of a layer, or the parameter of that name, with the dimension of that side."""
    parent, _, last = layer.rpartition(".")
    module = getattr(model.get_submodule(parent), last)
    if isinstance(module, torch.Tensor):
        yield layer, next(d for d, size in enumerate(module.shape) if size > 1)
    elif isinstance(module, (_ConvNd, nn.Linear)):
        # A grouped one has its outputs in the first dimension, transposed or not.
        transposed = isinstance(module, _ConvTransposeNd) and module.groups == 1
        yield f"{layer}.weight", int((side == "in") != transposed)
        if side == "out" and module.bias is not None:
            yield f"{layer}.bias", 0
    else:
        for key in ("weight", "bias", "running_mean", "running_var"):
            if getattr(module, key, None) is not None:
                yield f"{layer}.{key}", 0


def pruned_spec(
    spec: ModelSpec, model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept
) -> ModelSpec:
    """The spec of `model` after `keep_channels(model, groups, kept)`, from its spec before."""
    with torch.random.fork_rng(devices=[]):  # Its random weights are of no use.
        unpruned = spec.unpruned().build().state_dict()
    shapes = {
        name: list(tensor.shape)
        for name, tensor in model.state_dict().items()
        if tensor.shape != unpruned[name].shape
    }
    taps = remaining_taps(groups, kept, spec.taps)
    removed = [*spec.removed, *_emptied(groups, kept)]
    return replace(spec, shapes=shapes, taps=taps, removed=removed)


def remaining_taps(
    groups: Sequence[ChannelGroup], kept: Kept, before: Mapping[str, list[int]]
) -> dict[str, list[int]]:
    """Tap -> the channels of the unpruned network's tap that remain, ascending, of those taps that
    lost some; `before` is the same of the network that `groups` are of."""
    taps = dict(before)
    for tap in sorted({tap for group in groups if group.name in kept for tap in group.taps}):
        feeding = [group for group in groups if tap in group.taps]
        remain = [g.taps[tap][np.asarray(kept.get(g.name, range(g.size)))] for g in feeding]
        width = sum(group.size for group in feeding)
        channels = np.sort(np.concatenate(remain))
        if len(channels) < width:
            taps[tap] = np.asarray(before.get(tap, range(width)))[channels].tolist()
    return taps


def shorten_decoder(
    model: nn.Module, spec: ModelSpec, layers: int | None, queries: int | None
) -> tuple[nn.Module, ModelSpec]:
    """A network with only the first `layers` layers and the best `queries` queries of its query
    decoder, and its spec; None keeps all of them, and the network itself if both are None.

    The first layers, because each refines what the one before it found, and each is trained to
    answer (auxiliary losses of RT-DETR, arXiv 2304.08069). Queries have no weights: they are the
    cells with the best scores. Raises UserError unless there are that many.
    """
    if layers is None and queries is None:
        return model, spec
    decoder = getattr(model, "detection_head", None)
    if not isinstance(decoder, QueryDecoder):
        raise UserError(f"{spec.name} has no query decoder that could be shortened")
    there = len(decoder.layers)
    layers = there if layers is None else layers
    queries = decoder.queries if queries is None else queries
    if not 1 <= layers <= there:
        raise UserError(f"{spec.name} has {there} decoder layers, not {layers}")
    if not 1 <= queries <= decoder.queries:
        raise UserError(f"{spec.name} has {decoder.queries} decoder queries, not {queries}")
    gone = tuple(
        f"detection_head.{part}.{layer}."
        for part in ("layers", "score_heads", "box_heads")
        for layer in range(layers, there)
    )
    shorter = replace(
        spec,
        arguments={**spec.arguments, "layers": layers, "queries": queries},
        shapes={name: s for name, s in spec.shapes.items() if not name.startswith(gone)},
    )
    reduced = shorter.build().to(next(model.parameters()).device).train(model.training)
    state = model.state_dict()
    reduced.load_state_dict({name: state[name] for name in reduced.state_dict()})
    return reduced, shorter

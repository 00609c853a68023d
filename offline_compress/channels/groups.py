"""Which channels of a network can only go together."""

import difflib
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mtc_perception.util.errors import UserError
from offline_compress.channels.description import Description, is_under
from offline_compress.channels.following import follow
from offline_compress.channels.labels import Labels, Side
from offline_compress.channels.operations import Rows

MAKERS = (nn.modules.conv._ConvNd, nn.Linear)
"""Layers that make channels; all others pass them on."""


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A layer that loses channels together with its group."""

    layer: str
    """Dotted module name, or that of a parameter of no layer's own (`GatedAdapter.blend`)."""
    side: Side
    """`out`: filters, bias, norm features or entries of a parameter; `in`: input channels.
    Grouped convolutions, whose inputs go with their outputs, and norms are `out` only."""
    index: NDArray[np.int64]
    """[C, k] the layer's channels that go with each of the group's C channels; k > 1 where the
    same tensor is concatenated more than once, or where channels go in blocks only: those of a
    grouped convolution, of a group norm, or that one pixel is shuffled from."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """Channels that flow through the network together, coupled by skips, norms and the like."""

    name: str
    """Of the first layer that produces them; `NAME#2` for the next group of the same layer."""
    size: int
    """C channels, or blocks of channels that only go together."""
    slices: tuple[Slice, ...]
    """In the order of the forward pass."""
    taps: dict[str, NDArray[np.int64]]
    """Feature tap -> [C] channel of that tap; only taps that it feeds. A tap may be fed by several
    groups, through concatenation."""
    protected: str
    """Why it keeps all channels; empty if it need not."""
    block: str = ""
    """Residual block whose inner channels these are, by dotted name: without any of them it is the
    identity. Empty if there is none, and for a protected group."""


def channel_groups(
    model: nn.Module, description: Description, rows: Rows = "longest"
) -> list[ChannelGroup]:
    """All channel groups of a network, pruned before or not, in forward order. It is not changed.

    Every layer is covered once per side, except where it reads what keeps its channels: the
    network's inputs, and what opaque parts yield. What the network answers, what opaque parts and
    unknown operations read, and whatever stands under `description.protect` is protected.

    Removing channels of a group that is not protected is the same as to set to 0 what its readers
    read of them. That holds for every operation that is followed; that the network's own program
    says nowhere how many channels there are, and which `rows` may go where a view takes channels
    apart, `proven_groups` finds out.

    Raises UserError for a network that does not run or cannot be followed, and for names in the
    description that mean nothing.
    """
    labels = follow(model, description, rows).labels
    order: dict[str, int] = {}
    for layer, side in labels.slots:
        if side != "tap":
            order.setdefault(layer, len(order))
    makers = {name for name, module in model.named_modules() if isinstance(module, MAKERS)}
    groups = [
        _group(signature, channels, order, makers, description)
        for signature, channels in _bundles(labels, makers).items()
    ]
    _check_protected_names(groups, description.protect)
    return _named_apart(sorted(groups, key=lambda group: order[group.name]))


def _named_apart(groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    count: Counter[str] = Counter()
    named = []
    for group in groups:
        count[group.name] += 1
        nth = count[group.name]
        named.append(group if nth == 1 else replace(group, name=f"{group.name}#{nth}"))
    return named


_Signature = tuple[tuple[tuple[str, Side], ...], tuple[int, ...], str]
"""Slots, channels of each that go together, and why they stay."""


def _bundles(labels: Labels, makers: Set[str]) -> dict[_Signature, list[list[list[int]]]]:
    """Signature -> for each channel of a group the channels of each slot."""
    found, kept = labels.classes()
    classes: dict[int, dict[tuple[str, Side], list[int]]] = {}
    for slot, own in labels.slots.items():
        for channel, one in enumerate(found[own.numpy()].tolist()):
            classes.setdefault(one, {}).setdefault(slot, []).append(channel)
    bundles: dict[_Signature, list[list[list[int]]]] = {}
    for one, slots in classes.items():
        if any(side == "out" and name in makers for name, side in slots):
            counts = tuple(len(channels) for channels in slots.values())
            signature = tuple(slots), counts, kept.get(one, "")
            bundles.setdefault(signature, []).append(list(slots.values()))
    return bundles


def _group(
    signature: _Signature,
    channels: Sequence[Sequence[Sequence[int]]],
    order: dict[str, int],
    makers: Set[str],
    description: Description,
) -> ChannelGroup:
    slots, counts, reason = signature
    size = len(channels)
    index = {
        slot: np.array([own[n] for own in channels], np.int64).reshape(size, -1)
        for n, slot in enumerate(slots)
    }
    outs = [layer for layer, side in slots if side == "out"]
    made = [layer for layer in outs if layer in makers]
    name = min(made, key=order.__getitem__)
    # In the order of the channels of the layer that makes them first.
    rows = np.argsort(index[name, "out"][:, 0], kind="stable")
    readers = [layer for layer, side in slots if side == "in"]
    if not reason and any(is_under(layer, description.protect) for layer in outs):
        reason = "named under protect"
    if not reason and not readers:
        reason = "no layer reads it"
    if not reason and size == 1 and max(counts) > 1:
        reason = "its channels go only all together"
    inside = [
        block
        for block in description.blocks
        if all(is_under(layer, [block]) for layer in (*outs, *readers))
    ]
    return ChannelGroup(
        name=name,
        size=size,
        slices=tuple(
            Slice(layer, side, index[layer, side][rows]) for layer, side in slots if side != "tap"
        ),
        taps={tap: index[tap, side][rows, 0] for tap, side in slots if side == "tap"},
        protected=reason,
        block=inside[0] if inside and not reason else "",
    )


def _check_protected_names(groups: Sequence[ChannelGroup], protect: Sequence[str]) -> None:
    layers = {s.layer for group in groups for s in group.slices if s.side == "out"}
    known = {layer.rsplit(".", i)[0] for layer in layers for i in range(layer.count(".") + 1)}
    for name in protect:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), 3)
            hint = close or sorted(name for name in known if "." not in name)
            raise UserError(
                f"protect names {name!r}, under which no layer has channels; "
                f"there are {', '.join(hint)}"
            )

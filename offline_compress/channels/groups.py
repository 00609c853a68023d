"""Which channels of a network can only go together."""

import difflib
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mtc_perception.util.errors import UserError
from offline_compress.channels.tracing import Coupling, Side, trace
from offline_compress.models.blocks import Residual


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A layer that loses channels together with its group."""

    layer: str
    """Dotted module name, or that of a parameter of no layer's own (`GatedAdapter.blend`)."""
    side: Side
    """`out`: filters, bias, norm features or entries of a parameter; `in`: input channels.
    Depthwise convolutions and BatchNorms are `out` only."""
    index: NDArray[np.int64]
    """[C, k] the layer's channels that go with each of the group's C channels; k > 1 where the
    same tensor is concatenated more than once."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """Channels that flow through the network together, coupled by skips, norms and the like."""

    name: str
    """Of the first layer that produces them."""
    size: int
    """C channels."""
    slices: tuple[Slice, ...]
    """In the order of the forward pass; parameters of no layer's own come last."""
    taps: dict[str, NDArray[np.int64]]
    """Feature tap (`c3`..`p5`) -> [C] channel of that tap; only taps that it feeds. A tap may be
    fed by several groups, through concatenation."""
    protected: str
    """Why it keeps all channels; empty if it need not."""
    block: str = ""
    """Residual block whose inner channels these are, by dotted name: without any of them it is the
    identity. Empty if there is none, and for a protected group."""


def channel_groups(model: nn.Module, protect: Sequence[str] = ()) -> list[ChannelGroup]:
    """All channel groups of a network of the registry, pruned before or not, in forward order.

    Every layer is covered once per side, except where it reads the image and except the insides of
    attention layers and query decoders, which keep their shape. These, the layers that predict and
    whatever stands under the dotted names `protect` are protected: they keep their output channels.

    The coupling is found by Torch-Pruning (arXiv 2301.12900). The network is not changed.

    Raises UserError for a name in `protect` under which no layer has channels, and for a layer
    that cannot be followed.
    """
    traced = trace(model)
    blocks = {name for name, module in model.named_modules() if isinstance(module, Residual)}
    groups = [_group(coupling, traced.order, protect, blocks) for coupling in traced.couplings]
    _check_protected_names(groups, protect)
    return sorted(groups, key=lambda group: traced.order[group.name])


def _group(
    coupling: Coupling, order: dict[str, int], protect: Sequence[str], blocks: Set[str]
) -> ChannelGroup:
    last = len(order)
    items = sorted(coupling.layers, key=lambda item: order.get(item[0], last))
    outs = [layer for layer, side, _ in items if side == "out"]
    reason = coupling.fixed
    if not reason and any(_under(layer, name) for layer in outs for name in protect):
        reason = "named under protect"
    # Every layer that makes or reads these channels lies in one block.
    around = {layer.rsplit(".", 2)[0] for layer, _, _ in items}
    inside = around.pop() if len(around) == 1 and around <= blocks and not reason else ""
    return ChannelGroup(
        name=outs[0] if outs else coupling.root,
        size=coupling.size,
        slices=tuple(Slice(layer, side, index) for layer, side, index in items),
        taps=coupling.taps,
        protected=reason,
        block=inside,
    )


def _under(layer: str, name: str) -> bool:
    return f"{layer}.".startswith(f"{name}.")


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

"""Which channels of a network can only go together."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["out", "in"]


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A layer that loses channels together with its group."""

    layer: str
    """Dotted module name, or of a parameter that stands in no layer (`GatedAdapter.blend`)."""
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
    """In the order of the forward pass as far as it goes."""
    taps: dict[str, NDArray[np.int64]]
    """Feature tap (`c3`..`p5`) -> [C] channel of that tap; only taps that it feeds. A tap may be
    fed by several groups, through concatenation."""
    protected: str
    """Why it keeps all channels; empty if it need not."""

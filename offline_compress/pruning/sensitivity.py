"""What every group's width is worth: each task's loss with the group at several widths, measured.

How wide a layer stays matters more than which of its channels stay, and scores of single channels
say little about it: they are slopes at the network as it is. So each group is made narrower alone,
the best channels staying, statistics are measured anew, and each task's loss is compared with that
of the uncut network; residual blocks are tried without any of their channels, too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import NamedCount
from offline_compress.channels.description import Description
from offline_compress.channels.groups import ChannelGroup
from offline_compress.pruning.cost import LayerCosts
from offline_compress.pruning.cut_trial import losses_of_cut
from offline_compress.pruning.selection import WidthCurve, WidthLimits, best_channels

SENSITIVITY_FILE = "sensitivity.json"
SHARES = (0.75, 0.5, 0.25)
"""Widths that are measured, as far as a group may become as narrow, and its least one."""
RESOLUTION = 1e-3
"""Rise that a group is taken to cause in proportion to what it loses, if less was measured: no
layer is free, and of those that seem so the ones that save more go first."""
UNBEARABLE = 1e9
"""Rise that stands for a loss that is not a number."""


@dataclass(frozen=True, slots=True)
class MeasuredWidth:
    """A network with one group narrower."""

    channels: int
    """Of the group; 0: without its residual block."""
    losses: tuple[float, ...]
    """[T] mean loss per task, 0 for a task without labels."""
    saved: tuple[float, ...]
    """[3] what it costs less than the whole network, of `cost.KINDS`, by prediction."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What was measured of a network."""

    losses: tuple[float, ...]
    """[T] mean loss per task of the whole network."""
    groups: dict[str, list[MeasuredWidth]]
    """By group, from its own width, which saves nothing, down."""

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text_atomic(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Sensitivity":
        """Read what `save` wrote. Raises UserError with the reason if that cannot be."""
        try:
            content = json.loads(path.read_text())
            groups = {
                name: [
                    MeasuredWidth(one["channels"], tuple(one["losses"]), tuple(one["saved"]))
                    for one in widths
                ]
                for name, widths in content["groups"].items()
            }
            return cls(tuple(content["losses"]), groups)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} holds no measured widths ({error}); delete it") from None

    def rises(self, group: str) -> NDArray[np.float64]:
        """[K] rise of the loss with each measured width of a group, as a fraction of the loss.

        Of the task that loses most. Added up over groups, these bound what any task loses by all
        cuts together, to first order; a task's own sum might hide behind another's.
        """
        whole = np.array(self.losses)
        losses = np.array([width.losses for width in self.groups[group]])
        known = whole > 0
        rises = (losses[:, known] / whole[known] - 1).max(1, initial=0.0)
        return np.nan_to_num(rises, nan=UNBEARABLE, posinf=UNBEARABLE)

    def curves(self, sizes: Mapping[str, int], limits: WidthLimits) -> dict[str, WidthCurve]:
        """What groups that have `sizes` channels lose at each width, interpolated where it was not
        measured."""
        curves = {}
        for name, size in sizes.items():
            measured = np.array([width.channels for width in self.groups[name]])
            removed = 1 - measured / measured[0]
            rises = np.maximum(self.rises(name), RESOLUTION * removed)
            rises = np.maximum.accumulate(rises)  # what is less with fewer channels is chance
            channels = limits.widths(name, size)
            # A removed block is no narrower layer: nothing lies between.
            narrow = measured > 0
            channels = channels[(channels >= measured[narrow].min()) | np.isin(channels, measured)]
            losses = np.interp(channels, measured[narrow][::-1], rises[narrow][::-1])
            losses[channels == 0] = rises[~narrow]
            curves[name] = WidthCurve(channels, losses)
        return curves


def measure_sensitivity(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    value: Mapping[str, NDArray[np.float64]],
    limits: WidthLimits,
    costs: LayerCosts,
    batches: Sequence[Any],
    description: Description,
    path: Path,
    count: NamedCount,
) -> Sensitivity:
    """Measure `model`, which is not changed, with each group that has a `value` made narrower.

    `value`, [C] of each group, says which channels stay. What is in the file at `path` is not
    measured again; it grows with every group.
    """
    sizes = {name: len(own) for name, own in value.items()}
    total = costs.total(sizes)
    tried = {name: measured_widths(limits.widths(name, size)) for name, size in sizes.items()}
    if path.exists():
        found = Sensitivity.load(path)
    else:
        found = Sensitivity(tuple(losses_of_cut(model, groups, {}, batches, description)), {})
    trials, done = sum(map(len, tried.values())), 0
    for name, widths in tried.items():
        if name not in found.groups:
            measured = [MeasuredWidth(sizes[name], found.losses, (0.0,) * len(total))]
            for number, width in enumerate(widths):
                count("measuring widths", done + number, trials)
                kept = best_channels(value[name], limits.locked[name], width)
                losses = losses_of_cut(model, groups, {name: kept.tolist()}, batches, description)
                saved = total - costs.total(sizes | {name: width})
                measured.append(MeasuredWidth(width, tuple(losses), tuple(saved)))
            found.groups[name] = measured
            found.save(path)
        done += len(widths)
    return found


def measured_widths(allowed: NDArray[np.int64]) -> list[int]:
    """Those of the widths `allowed`, descending from a group's own, that are measured."""
    narrower = allowed[(allowed > 0) & (allowed < allowed[0])]
    if len(narrower):
        nearest = [narrower[np.abs(narrower - share * allowed[0]).argmin()] for share in SHARES]
        narrower = np.unique([*nearest, narrower[-1]])[::-1]
    return [int(width) for width in (*narrower, *allowed[allowed == 0])]

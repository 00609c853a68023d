"""What cutting a group does to the tasks, tried out before it is done.

Taylor importance (`importance`) ranks channels well, but it is the slope of the loss at the network
as it is: where a trained network is insensitive to small changes, half of a layer can look free.
Statistics are measured anew after a cut, as after the real one.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mtc_perception.util.progress import NamedCount
from offline_compress.channels.description import Description, to_device
from offline_compress.channels.groups import ChannelGroup
from offline_compress.channels.surgery import Kept, keep_channels
from offline_compress.importance.measure import labelled_losses, scoring_mode
from offline_compress.pruning.checks import recalibrate
from offline_compress.pruning.selection import round_up


def losses_of_cut(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Kept,
    batches: Sequence[Any],
    description: Description,
) -> NDArray[np.float64]:
    """[T] losses (`mean_losses`) of `model`, which is not changed, with only the channels `kept`.

    BatchNorms are recalibrated on the batches first: what a channel adds to the mean of another is
    no loss. So that only the cut differs, the uncut network is measured this way, too.
    """
    cut = copy.deepcopy(model)
    keep_channels(cut, groups, kept)
    recalibrate(cut, batches, description, lambda _done, _total: None)
    return mean_losses(cut, batches, description)


@torch.no_grad()
def mean_losses(
    model: nn.Module, batches: Sequence[Any], description: Description
) -> NDArray[np.float64]:
    """[T] mean loss per task over the batches that are labelled for it; 0 where none is."""
    device = next(model.parameters()).device
    sums, counts = np.zeros(len(description.tasks)), np.zeros(len(description.tasks))
    with scoring_mode(model):
        for batch in batches:
            losses = labelled_losses(model, to_device(batch, device), description)
            for task, loss in enumerate(losses):
                if loss is not None:
                    sums[task] += loss.item()
                    counts[task] += 1
    means: NDArray[np.float64] = sums / np.maximum(counts, 1)
    return means


class Trial:
    """Cuts of a network's groups, each tried alone, all other groups being whole."""

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        value: Mapping[str, NDArray[np.float64]],
        batches: Sequence[Any],
        description: Description,
        largest_rise: float | None,
        round_to: int,
        count: NamedCount,
    ) -> None:
        """Try cuts of `model`, which is not changed, on `batches`.

        A cut is borne if it raises no task's mean loss by more than the fraction `largest_rise`;
        without one, every cut is, untried.
        `value`, [C] of each group that is not protected, says which channels return first.
        """
        self._model, self._groups, self._value = model, groups, value
        self._batches, self._description = batches, description
        self._largest_rise, self._round_to, self._count = largest_rise, round_to, count
        self._borne = {name: len(channels) for name, channels in value.items()}
        self.fewest: dict[str, int] = {}
        """Channels that a group keeps at least, for those whose deeper cuts were not borne."""

    def limit(self, kept: Mapping[str, NDArray[np.int64]]) -> bool:
        """Try what `kept` cuts deeper than was tried before; whether any of it is not borne.

        Such a cut is halved, the most valuable channels returning first, until it is borne or
        nothing; what is left of it is the group's `fewest`. Cuts of a group are taken to be nested.
        """
        largest_rise = self._largest_rise
        if largest_rise is None:
            return False
        cuts = [name for name, channels in kept.items() if len(channels) < self._borne[name]]
        stopped = False
        for done, name in enumerate(cuts):
            self._count("trying the cuts", done, len(cuts))
            channels = kept[name]
            while len(channels) < self._borne[name] and not self._bears(
                name, channels, largest_rise
            ):
                channels = self._half_cut(name, channels)
                stopped = True
                # Not above what was borne before, which halving may step over.
                self.fewest[name] = min(self._borne[name], len(channels))
            self._borne[name] = min(self._borne[name], len(channels))
        return stopped

    @cached_property
    def _whole(self) -> NDArray[np.float64]:
        """[T] losses of the uncut network."""
        return self._losses({})

    def _bears(self, name: str, channels: NDArray[np.int64], largest_rise: float) -> bool:
        """Whether all tasks bear that one group alone keeps only `channels`."""
        losses, known = self._losses({name: channels.tolist()}), self._whole > 0
        # A loss that is not a number is not borne.
        return bool((losses[known] <= self._whole[known] * (1 + largest_rise)).all())

    def _losses(self, kept: Kept) -> NDArray[np.float64]:
        return losses_of_cut(self._model, self._groups, kept, self._batches, self._description)

    def _half_cut(self, name: str, channels: NDArray[np.int64]) -> NDArray[np.int64]:
        """`channels` of a group and the better half of the others, rounded up to blocks."""
        value = self._value[name]
        count = round_up((len(channels) + len(value)) / 2, self._round_to)
        gone = np.setdiff1d(np.arange(len(value)), channels)
        best = gone[np.argsort(-value[gone], kind="stable")]
        return np.union1d(channels, best[: max(1, count - len(channels))])

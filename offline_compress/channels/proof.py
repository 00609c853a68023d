"""Channel groups of a network of any make, each of which was tried: what a program does with its
own idea of how many channels there are, no trace shows."""

import copy
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtc_perception.util.errors import UserError
from offline_compress.channels.description import Description, tensors_in
from offline_compress.channels.groups import ChannelGroup, channel_groups
from offline_compress.channels.operations import Rows
from offline_compress.channels.surgery import Kept, keep_channels, tensor_of, tensors_of_layer

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
"""Largest difference of an answer, relative to the largest: networks may round in between."""


def proven_groups(model: nn.Module, description: Description) -> list[ChannelGroup]:
    """The channel groups of a network, after all of them were cut three times, to every second
    channel and to random ones, and compared with the whole network that does not read what was
    removed: both compute the same, in float64 where they can. In training mode, where nothing can
    be compared for its randomness, the cut network runs.

    Weights are random ones in this trial, so that nothing is equal by chance. The network is not
    changed. Raises UserError like `channel_groups`, and for groups that cannot be cut, by name.
    """
    trial: _Trial | None = None
    reasons: dict[str, str] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for rows in get_args(Rows):
            groups = channel_groups(model, description, rows)  # first: says what does not run
            trial = trial or _Trial(model, description)
            free = [group for group in groups if group.size > 1 and not group.protected]
            if not trial.difference(free):
                return groups
            trial.require_repeatable()
            reasons = reasons or trial.failures(free)
    first = next(iter(reasons.values()))
    names = ", ".join(reasons)
    raise UserError(
        f"channels of {names} cannot be removed: {first}. The program counts on their number; "
        "let it read the number from a tensor's shape, or name these layers under protect"
    )


class _Trial:
    def __init__(self, model: nn.Module, description: Description) -> None:
        self._description = description
        own = copy.deepcopy(model).cpu().eval()
        random = copy.deepcopy(own)
        _randomise(random)
        candidates = [(n, d) for n in (random, own) for d in (torch.float64, torch.float32)]
        for network, dtype in candidates:
            self._network, self._dtype = network.to(dtype), dtype
            self._inputs = tuple(_noise(value, dtype) for value in description.example)
            try:
                first = self._answers(self._network)
                if all(answer.isfinite().all() for answer in first):
                    break
            except RuntimeError:  # of a network that wants its own precision
                continue
        else:
            raise UserError("the network fails on random pixels, or its answers are not finite")
        if not first:
            raise UserError(
                "the network returns no tensors in eval mode, or empty ones; give `answers`, which "
                "picks what must keep its channels"
            )
        self._trains = not self._failure_in_training(copy.deepcopy(self._network))
        """Whether it runs in training mode in this precision."""

    def require_repeatable(self) -> None:
        """Raise UserError for a network with which nothing can be compared."""
        first, again = self._answers(self._network), self._answers(self._network)
        if not self._alike(again, first):
            raise UserError(
                "the network answers one image in two ways in eval mode; let it return the same "
                "tensors each time"
            )

    def failures(self, groups: Sequence[ChannelGroup]) -> dict[str, str]:
        """Group -> why it cannot be cut, of those that cannot."""
        reason = self.difference(groups)
        if not reason:
            return {}
        if len(groups) == 1:
            return {groups[0].name: reason}
        half = len(groups) // 2
        found = self.failures(groups[:half]) | self.failures(groups[half:])
        return found or {groups[0].name: f"together with {groups[-1].name}, {reason}"}

    def difference(self, groups: Sequence[ChannelGroup]) -> str:
        """In words, what becomes of the network with channels of these groups gone."""
        if not groups:
            return ""
        for choice in zip(*(_choices(group) for group in groups), strict=True):
            kept = {group.name: own for group, own in zip(groups, choice, strict=True)}
            unread, cut = copy.deepcopy(self._network), copy.deepcopy(self._network)
            switch_off(unread, groups, kept)
            keep_channels(cut, groups, kept)
            try:
                found = self._answers(cut)
            except Exception as error:
                return f"the network fails without ({_line(error)})"
            if not self._alike(found, self._answers(unread)):
                return "the network computes something else without"
        if self._trains and (failure := self._failure_in_training(cut)):
            return f"in training mode the network fails without ({failure})"
        return ""

    def _alike(self, found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> bool:
        return len(found) == len(wanted) and all(
            one.shape == other.shape
            and float((one - other).abs().max())
            <= TOLERANCE[self._dtype] * (1 + float(other.abs().max()))
            for one, other in zip(found, wanted, strict=True)
        )

    @torch.no_grad()
    def _answers(self, network: nn.Module) -> list[torch.Tensor]:
        output = network(*copy.deepcopy(self._inputs))
        answers = tensors_in(self._description.answers(output))
        return [answer.double() for answer in answers if answer.numel()]

    @torch.no_grad()
    def _failure_in_training(self, network: nn.Module) -> str:
        """Why `network`, which is of no use afterwards, fails in training mode; empty if it does
        not. BatchNorms are in eval mode: single images have no statistics."""
        torch.manual_seed(0)
        network.train()
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        try:
            network(*copy.deepcopy(self._inputs))
        except Exception as error:
            return _line(error)
        return ""


def _choices(group: ChannelGroup) -> list[list[int]]:
    """What is kept of a group in each trial: every second channel, which may hide what goes by
    twos; an odd number; and another number than that of groups of the same size."""
    rng = np.random.default_rng(list(group.name.encode()))
    counts = group.size // 2 | 1, rng.integers(min(2, group.size - 1), group.size)
    drawn = [rng.choice(group.size, count, replace=False).tolist() for count in counts]
    return [list(range(0, group.size, 2)), *drawn]


def _line(error: Exception) -> str:
    return f"{str(error).splitlines()[0]:.120}" if str(error) else type(error).__name__


@torch.no_grad()
def switch_off(model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept) -> None:
    """Let no layer read the channels that are not `kept`, in place: they are switched off."""
    for group in groups:
        if group.name in kept:
            gone = sorted(set(range(group.size)) - set(kept[group.name]))
            for part in group.slices:
                if part.side == "in":
                    name, dim = next(tensors_of_layer(model, part.layer, "in"))
                    index = torch.from_numpy(part.index[gone].ravel())
                    tensor_of(model, name).index_fill_(dim, index, 0)


def _noise(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return torch.randn(value.shape, dtype=dtype)
    return value


@torch.no_grad()
def _randomise(network: nn.Module) -> None:
    """Weights as if trained: of the size that keeps the size of what flows, and nowhere 0."""
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0, (2 / max(1, weight[0].numel())) ** 0.5)
        elif name.endswith("bias"):
            weight.normal_(0, 0.3)
        else:
            weight.uniform_(0.5, 1.5)
    for name, statistic in network.named_buffers():
        if name.endswith("running_var"):
            statistic.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            statistic.normal_(0, 0.3)

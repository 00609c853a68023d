"""The arithmetic of scoring: from the losses of a batch to sums per channel.

A channel is switched off by cutting it out of every layer that reads it: scaling the input channel
c of a layer by z is scaling W[:, c] by z, so the derivative at z = 1 is <W[:, c], dL/dW[:, c]>, and
a channel's s is its sum over all readers, with sign. For channels that reach their readers through
additions, ReLUs, max-pooling, resizing and concatenation only, Euler's theorem makes that the gate
on the BatchNorms that end the channel, sum of gamma dL/dgamma + beta dL/dbeta. It holds for any
other channel too (SiLU, products, a depthwise convolution between two norms, a layer that is
applied several times), needs no hook, and no gradient that the conflict does not need anyway.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mtc_perception.util.errors import UserError
from offline_compress.channels.groups import ChannelGroup
from offline_compress.importance.filters import filters, has_filters
from offline_compress.importance.scores import ChannelScores, pairs

_Share = tuple[slice, torch.Tensor]
"""Channels among all, and [C, k] the layer's channels that they are."""


class Scorer:
    """Sums over batches of what `ChannelScores` holds the means of: for T tasks 1 + T (T + 1) / 2
    numbers per channel."""

    def __init__(
        self, model: nn.Module, groups: Sequence[ChannelGroup], tasks: Sequence[str]
    ) -> None:
        """Score the groups that are not protected, for `tasks`.

        Raises UserError if there are no such groups or no tasks, or if one of the groups is read by
        a grouped convolution or a layer of another kind than convolutions and linear layers.
        """
        if not tasks:
            raise UserError("there are no tasks to score channels for; give at least one loss")
        self._groups = [group for group in groups if not group.protected]
        if not self._groups:
            raise UserError(
                "all channels are protected, so there is nothing to prune; shorten `protect` (of a "
                "recipe: compress.prune.protect)"
            )
        self._tasks, self._pairs = tuple(tasks), pairs(tasks)
        self._size = sum(group.size for group in self._groups)
        # Squares per task, square of the sum, conflict per pair.
        self._rows = (len(self._tasks), 1, len(self._pairs))
        # Images, batches, batches labelled for each task, for each pair, batches in which each
        # task has a gradient.
        self._counts = 2 + 2 * len(self._tasks) + len(self._pairs)
        device = next(model.parameters()).device
        self.sums = torch.zeros(
            sum(self._rows) * self._size + self._counts, dtype=torch.float64, device=device
        )
        """What several processes add up."""
        modules = dict(model.named_modules())
        self._makers: dict[str, list[_Share]] = {}
        self._readers: dict[str, list[_Share]] = {}
        begin = 0
        for group in self._groups:
            channels = slice(begin, begin + group.size)
            begin = channels.stop
            for part in group.slices:
                layer = modules.get(part.layer)
                share = (channels, torch.from_numpy(part.index).to(device))
                if part.side == "in":
                    if not has_filters(layer) or getattr(layer, "groups", 1) != 1:
                        raise UserError(
                            f"what layer {part.layer} reads cannot be scored channel by channel; "
                            f"name {group.name} under protect (of a recipe: compress.prune.protect)"
                        )
                    self._readers.setdefault(part.layer, []).append(share)
                elif has_filters(layer):  # norms and lone parameters make no channels
                    self._makers.setdefault(part.layer, []).append(share)
        # All, as a task may hang on protected channels alone.
        self._layers = {name: layer for name, layer in modules.items() if has_filters(layer)}
        self.weights = [layer.weight for layer in self._layers.values()]
        """What gradients are taken with respect to: all of them must require some."""

    def add(self, losses: Sequence[torch.Tensor | None], images: int) -> None:
        """Count a batch of `images` images by its scalar loss per task; None: unlabelled.

        The losses come from one forward pass, whose graph is freed.
        """
        gate, products, reached = self._inner_products(losses)
        known = [loss is not None for loss in losses]
        counts = [images, 1, *known, *(known[a] and known[b] for a, b in self._pairs)]
        conflict = [
            _conflict(products[a, b], products[a, a], products[b, b]) for a, b in self._pairs
        ]
        self.sums += torch.cat(
            (
                gate.square().flatten(),
                gate.sum(0).square(),
                *conflict,
                torch.tensor(counts, device=gate.device),
                reached,
            )
        )

    def _inner_products(
        self, losses: Sequence[torch.Tensor | None]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """s [T, all channels], <g_t, g_u> [T, T, all channels] of the filters' gradients, and
        whether any of these is not 0 [T].

        Zero for a task without a loss, and where a layer has no part in a task.
        """
        gradients: list[Sequence[torch.Tensor | None]] = [[None] * len(self.weights)] * len(losses)
        labelled = {t: loss for t, loss in enumerate(losses) if loss is not None}
        for t, loss in labelled.items():
            if not loss.requires_grad:
                raise UserError(
                    f"the loss of task {self._tasks[t]} depends on no weight of the network; is it "
                    "made of what the network returns, without detach()?"
                )
        for t, loss in labelled.items():
            gradients[t] = torch.autograd.grad(
                loss, self.weights, retain_graph=t != max(labelled), allow_unused=True
            )
        gate = self.sums.new_zeros(len(self._tasks), self._size)
        products = self.sums.new_zeros(len(self._tasks), len(self._tasks), self._size)
        reached = torch.zeros(len(self._tasks), dtype=torch.bool, device=gate.device)
        for (name, layer), weight, *found in zip(
            self._layers.items(), self.weights, *gradients, strict=True
        ):
            each = torch.stack(  # [task, output, input, taps]
                [
                    filters(layer, torch.zeros_like(weight) if g is None else g).double()
                    for g in found
                ]
            )
            reached |= each.flatten(1).any(1)
            if name in self._readers:
                read = (filters(layer, weight.detach()) * each).sum((1, 3))
                for channels, index in self._readers[name]:
                    gate[:, channels] += read[:, index].sum(-1)
            if name in self._makers:
                rows = each.flatten(2).transpose(0, 1)
                made = (rows @ rows.mT).permute(1, 2, 0)
                for channels, index in self._makers[name]:
                    products[..., channels] += made[..., index].sum(-1)
        return gate, products, reached

    def scores(self) -> ChannelScores:
        """The means over what was counted.

        Raises UserError if a task was never labelled, or its gradients were not finite or all 0.
        """
        tasks = len(self._tasks)
        sums = self.sums.cpu().numpy()
        images, batches, *counts = (round(n) for n in sums[-self._counts :])
        labelled, together = tuple(counts[:tasks]), tuple(counts[tasks:-tasks])
        require_labels(labelled, self._tasks)
        values = sums[: -self._counts].reshape(-1, self._size)
        finite = np.isfinite(values).all(1)
        if not finite.all():
            wrong = [
                name for name, known in zip(self._tasks, finite[:tasks], strict=True) if not known
            ]
            raise UserError(
                f"the gradients of {' and '.join(wrong or self._tasks)} are not finite: the loss "
                "is not, or the network comes from a training that diverged; mend the loss, or "
                "train anew with a lower learning rate (of a recipe: schedule.learning_rate)"
            )
        for name, reached in zip(self._tasks, counts[-tasks:], strict=True):
            if not reached:
                raise UserError(
                    f"the loss of task {name} depends on no weight of a layer: its gradients are 0 "
                    "in all batches; is it made of what the network returns, without detach()?"
                )
        taylor, joint, conflict = np.split(values, np.cumsum(self._rows)[:-1])
        return ChannelScores(
            self._by_group(taylor / np.array(labelled)[:, None]),
            self._by_group(joint[0] / batches),
            self._by_group(conflict / np.maximum(together, 1)[:, None]),
            images,
            batches,
            labelled,
            together,
            self._tasks,
        )

    def _by_group(self, values: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """[..., all channels] -> group -> [..., C]."""
        ends = np.cumsum([group.size for group in self._groups])
        parts = np.split(values, ends[:-1], -1)
        return {group.name: part for group, part in zip(self._groups, parts, strict=True)}


def require_labels(labelled: Sequence[int], tasks: Sequence[str]) -> None:
    """Refuse calibration without labels for a task, given how much is labelled for each."""
    missing = [task for task, count in zip(tasks, labelled, strict=True) if not count]
    if missing:
        raise UserError(
            f"the calibration images have no labels for {' and '.join(missing)}, whose channels "
            "would seem useless; give batches that have some (of a recipe: a data set in its "
            "`train`)"
        )


def _conflict(product: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """max(0, -cos) [C] from <a, b>, <a, a> and <b, b>; 0 where a or b is."""
    # The root of each: their product may be too small for a float64.
    lengths = first.sqrt() * second.sqrt()
    cosine = torch.where(
        lengths > 0, product / lengths.clamp(min=torch.finfo(torch.float64).tiny), 0.0
    )
    return (-cosine).clamp(0, 1)

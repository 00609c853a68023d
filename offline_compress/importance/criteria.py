"""From what was measured to one score per channel, and to the channels that must stay."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from offline_compress.channels.groups import ChannelGroup
from offline_compress.importance.filters import filters, has_filters
from offline_compress.importance.scores import ChannelScores
from offline_compress.recipe.compression import Criterion


def criterion_scores(
    scores: ChannelScores,
    groups: Sequence[ChannelGroup],
    model: nn.Module,
    criterion: Criterion,
    conflict_weight: float,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """What each channel of the groups that are not protected is worth: group -> [C], at least 0.

    random: uniform random numbers. l2: length of the channel's filters over the mean of its group.
    joint: Taylor importance to the sum of the losses. tci_sum, tci_max: sum over and maximum of
    the tasks' own Taylor importances, each divided by its mean over all channels; times
    1 - `conflict_weight` x conflict, the mean over the pairs of tasks; a single task has none.
    `conflict_weight`, in 0..1, means nothing to the first three, which are baselines.
    """
    prunable = [group for group in groups if not group.protected]
    if criterion == "random":
        rng = np.random.default_rng(seed)
        return {group.name: rng.random(group.size) for group in prunable}
    if criterion == "l2":
        return {group.name: _relative_lengths(group, model) for group in prunable}
    names = [group.name for group in prunable]
    if criterion == "joint":
        return {name: scores.joint[name] for name in names}
    shares = task_shares({name: scores.taylor[name] for name in names})
    reduce = np.sum if criterion == "tci_sum" else np.max
    found = {name: reduce(shares[name], 0) for name in names}
    if len(scores.tasks) == 1:
        return found
    return {
        name: own * (1 - conflict_weight * scores.conflict[name].mean(0))
        for name, own in found.items()
    }


def task_shares(taylor: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Importances [T, C] divided by each task's mean over all channels of all groups.

    Raw ones differ a hundredfold between tasks, by nothing but the scales of their losses.
    """
    mean = np.concatenate(list(taylor.values()), 1).mean(1, keepdims=True)
    # A task that hangs on none of these channels is important to none.
    scale = np.divide(1.0, mean, out=np.zeros_like(mean), where=mean > 0)
    return {name: values * scale for name, values in taylor.items()}


def locked(
    scores: ChannelScores, groups: Sequence[ChannelGroup], share: float
) -> dict[str, NDArray[np.bool_]]:
    """Group -> [C] whether a channel is among the best `share` (0..1) of all for any task.

    Channels that do nothing for a task are not locked for it.
    """
    prunable = [group for group in groups if not group.protected]
    values = np.concatenate([scores.taylor[group.name] for group in prunable], 1)
    keep = np.zeros(values.shape, bool)
    best = np.argsort(-values, 1, kind="stable")[:, : int(share * values.shape[1])]
    np.put_along_axis(keep, best, True, 1)
    keep &= values > 0
    ends = np.cumsum([group.size for group in prunable])
    parts = np.split(keep.any(0), ends[:-1])
    return {group.name: part for group, part in zip(prunable, parts, strict=True)}


@torch.no_grad()
def _relative_lengths(group: ChannelGroup, model: nn.Module) -> NDArray[np.float64]:
    """[C] Euclidean length of the filters that make each channel, over the group's mean.

    Over the mean as in torch-pruning's magnitude importance: else layers of small filters go first.
    """
    modules = dict(model.named_modules())
    squares = np.zeros(group.size)
    for part in group.slices:
        layer = modules.get(part.layer)
        if part.side == "out" and has_filters(layer):
            lengths = filters(layer, layer.weight).double().square().sum((1, 2)).cpu().numpy()
            squares += lengths[part.index].sum(1)
    found = np.sqrt(squares)
    return found / max(found.mean(), np.finfo(np.float64).tiny)

"""The scoring pass over calibration batches, on any number of processes.

Each batch takes one forward pass, and one backward for each task that it is labelled for. Nothing
but sums is kept between batches. Memory, beside the network: the activations of one forward, one
fp32 gradient of the filters for each task, and seven float64 sums for every channel.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtc_perception.core.tasks import TASKS
from mtc_perception.util.progress import Count
from offline_compress.channels.groups import ChannelGroup
from offline_compress.data.batch import Batch
from offline_compress.data.targets import IGNORE, Targets
from offline_compress.export import normalise
from offline_compress.importance.scorer import Scorer
from offline_compress.importance.scores import ChannelScores
from offline_compress.losses.mask_losses import MaskLoss
from offline_compress.losses.task_losses import task_losses


def measure(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Sequence[Batch],
    mask_loss: MaskLoss,
    accelerator: Accelerator | None = None,
    count: Count | None = None,
) -> ChannelScores:
    """Score the channels of all groups that are not protected; the same in every process.

    The processes of `accelerator` share the batches out and call this together. BatchNorms use
    their running statistics; all else is as in training, so that every layer of a query decoder
    has its say, but without the random denoising queries. The model is left as it was.

    Raises UserError if no batch is labelled for one of the tasks, for gradients that are not
    finite, and for a layer that cannot be scored.
    """
    process, processes = (
        (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    )
    device = next(model.parameters()).device
    scorer = Scorer(model, groups)
    mine = range(process, len(batches), processes)
    with scoring_mode(model):
        for done, number in enumerate(mine, 1):
            batch = batches[number].to(device)
            scorer.add(labelled_losses(model, batch, mask_loss), len(batch.images))
            if count:
                count(done, len(mine))
    if accelerator:
        scorer.sums = accelerator.reduce(scorer.sums, "sum")
    return scorer.scores()


def labelled_losses(
    model: nn.Module, batch: Batch, mask_loss: MaskLoss
) -> list[torch.Tensor | None]:
    """Loss per task of one forward pass; None for a task that no image is labelled for."""
    losses = task_losses(model(normalise(batch.images)), batch.targets, mask_loss)
    labelled = labelled_tasks(batch.targets)
    return [getattr(losses, t) if known else None for t, known in zip(TASKS, labelled, strict=True)]


def labelled_tasks(targets: Targets) -> list[bool]:
    """For each task whether any image is labelled for it."""
    masks = (targets.drivable, targets.lane)
    return [bool(targets.has_boxes.any()), *(bool((mask != IGNORE).any()) for mask in masks)]


@contextmanager
def scoring_mode(model: nn.Module) -> Iterator[None]:
    """Training mode, but BatchNorms in eval mode; the model's own modes come back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.train()
    for module in modes:
        if isinstance(module, _BatchNorm):
            module.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training

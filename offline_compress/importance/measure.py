"""The scoring pass over calibration batches, on any number of processes.

Each batch takes one forward pass, and one backward for each task that it is labelled for. Nothing
but sums is kept between batches. Memory, beside the network: the activations of one forward, one
fp32 gradient of the filters for each task, and seven float64 sums for every channel.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import Count
from offline_compress.channels.description import Description, tensors_in, to_device
from offline_compress.channels.groups import ChannelGroup
from offline_compress.importance.scorer import Scorer
from offline_compress.importance.scores import ChannelScores


def measure(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Sequence[Any],
    description: Description,
    accelerator: Accelerator | None = None,
    count: Count | None = None,
) -> ChannelScores:
    """Score the channels of all groups that are not protected; the same in every process.

    The processes of `accelerator` share the batches out and call this together. BatchNorms use
    their running statistics; all else is as in training, so that every layer of a query decoder
    has its say, but without the random denoising queries. The model is left as it was.

    Raises UserError if no batch is labelled for one of the tasks, for a loss that is none or
    reaches no channel, for gradients that are not finite, and for a layer that cannot be scored.
    """
    process, processes = (
        (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    )
    device = next(model.parameters()).device
    scorer = Scorer(model, groups, tuple(description.tasks))
    mine = range(process, len(batches), processes)
    with scoring_mode(model):
        for done, number in enumerate(mine, 1):
            batch = to_device(batches[number], device)
            scorer.add(labelled_losses(model, batch, description), images_in(batch, description))
            if count:
                count(done, len(mine))
    if accelerator:
        scorer.sums = accelerator.reduce(scorer.sums, "sum")
    return scorer.scores()


def labelled_losses(
    model: nn.Module, batch: Any, description: Description
) -> list[torch.Tensor | None]:
    """Loss per task of one forward pass; None for a task that no image is labelled for.

    Raises UserError for a loss that is no scalar.
    """
    output = model(*description.inputs(batch))
    losses = []
    for task, loss in description.tasks.items():
        found = loss(output, batch)
        if found is not None and (not isinstance(found, torch.Tensor) or found.numel() != 1):
            what = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise UserError(f"the loss of task {task} is {what}, not a scalar tensor or None")
        losses.append(found if found is None else found.reshape(()))
    return losses


def images_in(batch: Any, description: Description) -> int:
    """How many images a batch holds."""
    return len(next(tensors_in(description.inputs(batch))))


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

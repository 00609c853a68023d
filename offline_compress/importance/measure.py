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
from offline_compress.channels.description import Description, calling, to_device
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
    reaches no layer, for gradients that are not finite, for a layer that cannot be scored, and for
    batches that the network does not run on.
    """
    require_batches(batches)
    process, processes = (
        (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    )
    device = next(model.parameters()).device
    scorer = Scorer(model, groups, tuple(description.tasks))
    mine = range(process, len(batches), processes)
    with scoring_mode(model), _learning(scorer.weights):
        for done, number in enumerate(mine, 1):
            batch = to_device(batches[number], device)
            scorer.add(labelled_losses(model, batch, description), images_in(batch, description))
            if count:
                count(done, len(mine))
    if accelerator:
        scorer.sums = accelerator.reduce(scorer.sums, "sum")
    return scorer.scores()


def require_batches(batches: Sequence[Any]) -> None:
    """Raise UserError for batches that cannot be gone through again and again, or are none."""
    if not (hasattr(batches, "__len__") and hasattr(batches, "__getitem__")):
        raise UserError(
            f"batches is a {type(batches).__name__}, which cannot be gone through again and again; "
            "give a list of batches"
        )
    if not len(batches):
        raise UserError("batches is empty; give some to score channels on")


def labelled_losses(
    model: nn.Module, batch: Any, description: Description
) -> list[torch.Tensor | None]:
    """Loss per task of one forward pass; None for a task that no image is labelled for.

    Raises UserError for a loss that is no scalar, and for what the network and its owner's
    functions raise.
    """
    output = description.output(model, batch)
    losses = []
    for task, loss in description.tasks.items():
        with calling(f"the loss of task {task}"):
            found = loss(output, batch)
        if found is not None and (not isinstance(found, torch.Tensor) or found.numel() != 1):
            what = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise UserError(f"the loss of task {task} is {what}, not a scalar tensor or None")
        losses.append(found if found is None else found.reshape(()))
    return losses


def images_in(batch: Any, description: Description) -> int:
    """How many images a batch holds."""
    read = [a for a in description.arguments(batch) if isinstance(a, (torch.Tensor, list, tuple))]
    return len(read[0]) if read else 1


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


@contextmanager
def _learning(weights: Sequence[torch.Tensor]) -> Iterator[None]:
    """Weights that are frozen have gradients, too, as long as this lasts."""
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)

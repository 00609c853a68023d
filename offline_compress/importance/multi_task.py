"""The networks of the registry, described for compression like any other."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import nn

from offline_compress.channels.description import Description
from offline_compress.data.batch import Batch
from offline_compress.export import normalise
from offline_compress.losses.mask_losses import MaskLoss
from offline_compress.losses.task_losses import LOSSES, labelled
from offline_compress.models.blocks import Residual
from offline_compress.models.decoder import QueryDecoder
from offline_compress.models.deformable import DeformableAttention
from offline_compress.models.network import TAPS, NetworkOutput

EXAMPLE_SIZE = (64, 96)
"""Height and width of the image that channels are followed with: small, and both sides
different."""


def description_of(
    model: nn.Module, mask_loss: MaskLoss = "dice", protect: Sequence[str] = ()
) -> Description:
    """What compression has to know of a network that returns a `NetworkOutput`.

    A task that no image of a batch is labelled for has no loss. `protect` names layers or parts
    that keep their channels.
    """
    return Description(
        example=(torch.zeros(1, 3, *EXAMPLE_SIZE),),
        tasks={task: partial(_loss, task, mask_loss) for task in LOSSES},
        inputs=lambda batch: (normalise(batch.images),),
        answers=lambda output: (output.detections, output.drivable, output.lane),
        taps={tap: _feature(tap) for tap in TAPS},
        opaque=tuple(_opaque(model)),
        protect=tuple(protect),
        blocks=tuple(n for n, module in model.named_modules() if isinstance(module, Residual)),
    )


def _loss(
    task: str, mask_loss: MaskLoss, output: NetworkOutput, batch: Batch
) -> torch.Tensor | None:
    if not labelled(task, batch.targets):
        return None
    return LOSSES[task](output, batch.targets, mask_loss)


def _feature(tap: str) -> Callable[[NetworkOutput], torch.Tensor]:
    return lambda output: output.features[tap]


def _opaque(model: nn.Module) -> Iterator[str]:
    """Attention, whose width is bound to its heads, and what only denoising queries read."""
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention | DeformableAttention):
            yield name
        elif isinstance(module, QueryDecoder):
            yield f"{name}.denoising_content"

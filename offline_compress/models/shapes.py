"""Other widths than a network was built with, and fewer blocks: what pruning leaves, and reloading
it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from mtc_perception.util.errors import UserError
from offline_compress.models.blocks import Residual

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
CHECK_SIZE_PX = 32
"""Sides of the image that shows whether the layers fit each other: the coarsest stride."""


def replace_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put tensors of other widths in the place of parameters and buffers, in place.

    What layers know of their channels follows. Optimisers and wrappers made before
    still hold the old parameters.
    """
    layers = {}
    for name, tensor in tensors.items():
        layer, _, key = name.rpartition(".")
        module = layers[layer] = model.get_submodule(layer)
        old, tensor = getattr(module, key), tensor.detach().clone()
        if isinstance(old, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
        setattr(module, key, tensor)
    for module in layers.values():
        _count_channels(module)


def _count_channels(layer: nn.Module) -> None:
    """Let a layer's own numbers follow its tensors; blocks of grouped layers keep their size."""
    if isinstance(layer, _ConvTransposeNd):
        layer.in_channels, layer.out_channels = layer.weight.shape[:2]
        if layer.groups > 1:  # depthwise
            layer.groups = layer.out_channels = layer.in_channels
    elif isinstance(layer, _ConvNd):
        block = layer.out_channels // layer.groups
        layer.out_channels, layer.in_channels = layer.weight.shape[:2]
        if layer.groups > 1:
            layer.groups = layer.out_channels // block
            layer.in_channels *= layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _NormBase):
        tensor = layer.weight if layer.running_mean is None else layer.running_mean
        layer.num_features = len(tensor)
    elif isinstance(layer, nn.GroupNorm):
        block = layer.num_channels // layer.num_groups
        layer.num_channels = len(layer.weight)
        layer.num_groups = layer.num_channels // block
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)


def remove_blocks(model: nn.Module, names: Sequence[str]) -> None:
    """Replace residual blocks by the identity, in place; all other parts keep their names.

    Raises UserError, before anything is changed, for names of anything else.
    """
    parts = dict(model.named_modules())
    if not isinstance(names, list) or len(set(map(str, names))) != len(names):
        raise UserError(f"removed blocks are a list of names, not {names!r:.40}")
    for name in names:
        if not isinstance(parts.get(name), Residual):
            raise UserError(f"the network has no residual block {name!r:.80} to remove")
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, nn.Identity())


@torch.no_grad()
def narrow(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Cut the named tensors of a freshly initialised network to `shapes`, in place.

    What remains is initialised as if built that narrow: the spread of a convolution's weights
    follows from its number of inputs. Raises UserError for shapes that no pruning leaves.
    """
    if not isinstance(shapes, Mapping):
        raise UserError(f"the shapes of pruned tensors come by name, not as {shapes!r:.40}")
    tensors = model.state_dict()
    cut = {}
    for name, shape in shapes.items():
        if name not in tensors:
            raise UserError(f"the network has no {name}, whose shape is given")
        whole = tensors[name]
        if not _is_part(shape, whole.shape):
            raise UserError(f"{name} is {list(whole.shape)} unpruned, not {shape!r:.40}")
        cut[name] = whole[tuple(slice(size) for size in shape)]
        layer, _, key = name.rpartition(".")
        if key == "weight" and isinstance(model.get_submodule(layer), CONVOLUTIONS):
            cut[name] = cut[name] * (whole[0].numel() / cut[name][0].numel()) ** 0.5
    replace_tensors(model, cut)


def _is_part(shape: object, whole: Sequence[int]) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) == len(whole)
        and all(type(n) is int and 0 < n <= most for n, most in zip(shape, whole, strict=True))
    )


def difference(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str | None:
    """The first of the tensors in which a file and a network differ, and how many there are.

    None if there are none.
    """
    reasons = [f"{key} is missing" for key in wanted if key not in found]
    reasons += [f"{key} is unknown" for key in found if key not in wanted]
    reasons += [
        f"{key} is {list(found[key].shape)}, not {list(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    if len(reasons) > 1:
        return f"{reasons[0]}, and {len(reasons) - 1} more"
    return reasons[0] if reasons else None


@torch.no_grad()
def check_widths(model: nn.Module, taps: Mapping[str, Sequence[int]]) -> None:
    """Run a network once. Raises UserError if its layers, or the channels of its feature taps as a
    spec names them, do not fit each other."""
    if not isinstance(taps, Mapping):
        raise UserError(f"the channels of feature taps come by name, not as {taps!r:.40}")
    image = torch.zeros(1, 3, CHECK_SIZE_PX, CHECK_SIZE_PX)
    training = model.training
    try:
        features = model.eval()(image).features
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the shapes of the layers do not fit each other: {reason}") from None
    model.train(training)
    for tap, channels in taps.items():
        if tap not in features:
            raise UserError(f"the network has no feature {tap!r}; it has {', '.join(features)}")
        width = features[tap].shape[1]
        if not _is_selection(channels) or len(channels) != width:
            raise UserError(
                f"feature {tap} has {width} channels; they must be named, in ascending order"
            )


def _is_selection(channels: object) -> bool:
    return (
        isinstance(channels, list)
        and all(type(c) is int and c >= 0 for c in channels)
        and all(a < b for a, b in pairwise(channels))
    )

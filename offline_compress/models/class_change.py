"""Weights for a network of other classes: those that both know by name keep what was learnt."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from mtc_perception.util.errors import UserError
from offline_compress.models.registry import ModelSpec, load_spec, load_weights, read_weights
from offline_compress.models.shapes import difference


def load_start(model: nn.Module, spec: ModelSpec, path: Path) -> list[str]:
    """Load the weights of checkpoint `path` into the network of `spec`.

    Returns the classes that the checkpoint does not know: what belongs to them stays as it is.
    Raises UserError if the rest does not fit.
    """
    known = load_spec(path).classes
    if known == spec.classes:
        load_weights(model, path)
        return []
    found, own = read_weights(path), model.state_dict()
    axes = class_axes(spec)
    shared = {name: tensor for name, tensor in found.items() if name not in axes}
    of_classes = {name: tensor for name, tensor in found.items() if name in axes}
    wanted = {name: tensor for name, tensor in own.items() if name not in axes}
    if reason := difference(wanted, shared):
        raise UserError(f"{path} does not fit the network: {reason}")
    for name, tensor in of_classes.items():
        for index, one in enumerate(spec.classes):
            if one in known:
                row = tensor.select(axes[name], known.index(one))
                own[name].select(axes[name], index).copy_(row)
    model.load_state_dict(own | shared)
    return [one for one in spec.classes if one not in known]


def class_axes(spec: ModelSpec) -> dict[str, int]:
    """The tensors of a network that have a part for every class, and on which axis it lies."""
    with torch.device("meta"):
        own, more = (
            replace(spec.unpruned(), classes=classes).build().state_dict()
            for classes in (spec.classes, [*spec.classes, ""])
        )
    return {
        name: axis
        for name, tensor in own.items()
        for axis, (size, wider) in enumerate(zip(tensor.shape, more[name].shape, strict=True))
        if size != wider
    }


def shapes_of_classes(
    shapes: Mapping[str, list[int]], spec: ModelSpec, known: int
) -> dict[str, list[int]]:
    """The shapes of the pruned tensors of a network with `known` classes, for those of `spec`."""
    changed = {name: list(shape) for name, shape in shapes.items()}
    for name, axis in class_axes(spec).items():
        if name in changed:
            changed[name][axis] += len(spec.classes) - known
    return changed

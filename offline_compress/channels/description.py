"""What compression has to know of a network, whatever its make."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch

from mtc_perception.util.errors import UserError

Loss = Callable[[Any, Any], torch.Tensor | None]
"""(what the network returns, batch) -> scalar loss of a task; None: nothing is labelled for it."""
Tap = str | Callable[[Any], torch.Tensor]
"""Where a feature [N, C, ...] is found: name of the module whose output it is, or a function of
what the network returns."""


def first_of(batch: Any) -> tuple[Any, ...]:
    """The images of a batch that is `(images, labels...)`."""
    return (batch[0],)


def everything(output: Any) -> Any:
    """All that the network returns."""
    return output


@dataclass(frozen=True, slots=True, eq=False)
class Description:
    """A network for compression: what it reads, what it shall learn, what must stay."""

    example: tuple[Any, ...]
    """Positional arguments of one forward pass, on the CPU: as small an image as the network takes,
    of batch size 1; it is run many times."""
    tasks: Mapping[str, Loss]
    """Task -> its loss. Any number, any names."""
    inputs: Callable[[Any], tuple[Any, ...]] = first_of
    """Batch -> positional arguments of the network."""
    answers: Callable[[Any], Any] = everything
    """Of what the network returns, the tensors whose channels stay."""
    taps: Mapping[str, Tap] = field(default_factory=dict)
    """Features that a teacher teaches: tap -> where it is found."""
    opaque: Sequence[str] = ()
    """Parts, by dotted name, whose insides are not followed: they keep their shape, and what they
    read keeps its channels."""
    protect: Sequence[str] = ()
    """Layers or parts, by dotted name, that keep all their output channels."""
    blocks: Sequence[str] = ()
    """Blocks (`models.blocks.Residual`) that are the identity without their inner channels, and may
    go as a whole."""


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of nested tuples, lists, mappings and data classes. Raises UserError as
    `named_tensors`."""
    return (tensor for _, tensor in named_tensors(value))


def named_tensors(value: Any, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of nested tuples, lists, mappings and data classes, by their place.

    It is `lane` of a mapping, `masks.0` of a tuple in one, `output.0` of a tuple, `output` of a
    tensor alone. Raises UserError for anything else that may hold some.
    """
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, torch.Tensor):
        yield place or "output", value
    elif isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, (list, tuple)):
        place, parts = place or "output", enumerate(value)
    elif is_dataclass(value):
        parts = ((part.name, getattr(value, part.name)) for part in fields(value))
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        raise UserError(
            f"the network returns a {type(value).__name__}, in which no tensors are found; give "
            "`answers`, which picks them"
        )
    for name, part in parts:
        yield from named_tensors(part, f"{place}.{name}" if place else str(name))


def to_device(value: Any, device: torch.device) -> Any:
    """A batch on `device`: nested tuples, lists and mappings of what has a method `to`."""
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(part, device) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(part, device) for part in value)
    return value


def is_under(name: str, parts: Sequence[str]) -> bool:
    """Whether a module or tensor is one of these parts of a network, or lies in one."""
    return any(f"{name}.".startswith(f"{part}.") for part in parts)

"""What compression has to know of a network, whatever its make."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import nn

from mtc_perception.util.errors import UserError
from mtc_perception.util.memory import is_out_of_memory

Loss = Callable[[Any, Any], torch.Tensor | None]
"""(what the network returns, batch) -> scalar loss of a task; None: nothing is labelled for it."""
Tap = str | Callable[[Any], torch.Tensor]
"""Where a feature [N, C, ...] is found: name of the module whose output it is, or a function of
what the network returns."""


def first_of(batch: Any) -> tuple[Any, ...]:
    """The images of a batch that is `(images, labels...)`, or images alone."""
    if isinstance(batch, torch.Tensor):
        return (batch,)
    if isinstance(batch, Mapping) or not hasattr(batch, "__getitem__"):
        raise UserError(
            f"a batch is a {type(batch).__name__}; give `inputs`, which picks what the network "
            "reads"
        )
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
    """Batch -> positional arguments of the network, or a lone tensor."""
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

    def __post_init__(self) -> None:
        """Raise UserError for fields that are easily written otherwise than meant."""
        if not isinstance(self.example, (tuple, list)):
            raise UserError(
                f"example is a {type(self.example).__name__}, not a tuple of the network's "
                "arguments: write (image,)"
            )
        if not isinstance(self.tasks, Mapping) or not all(map(callable, self.tasks.values())):
            raise UserError("tasks is no mapping of names to losses, which are functions")
        for name in ("opaque", "protect", "blocks"):
            if isinstance(getattr(self, name), str):
                raise UserError(f"{name} is one string, not a list of names")

    def arguments(self, batch: Any) -> tuple[Any, ...]:
        """What the network reads of a batch. Raises UserError if `inputs` does not say so."""
        with calling("inputs, of a batch"):
            found = self.inputs(batch)
        if isinstance(found, torch.Tensor):
            return (found,)
        if not isinstance(found, (tuple, list)):
            raise UserError(
                f"inputs returned a {type(found).__name__}, not a tuple of the network's arguments"
            )
        return tuple(found)

    def output(self, model: nn.Module, batch: Any) -> Any:
        """What `model` returns for a batch. Raises UserError if it does not run on it."""
        arguments = self.arguments(batch)
        with calling("the network, on a batch"):
            return model(*arguments)

    def answered(self, output: Any) -> list[torch.Tensor]:
        """The answers in what the network returns. Raises UserError as `tensors_in`."""
        with calling("answers, of what the network returns"):
            return list(tensors_in(self.answers(output)))


@contextmanager
def calling(what: str, then: str = "") -> Iterator[None]:
    """One line of what a function of the user's raises, and of what happens `then`; its traceback
    stays behind it. Memory that runs out is left to the caller."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error) or "no reason given").splitlines()[0]
        raise UserError(f"{what}, raised {type(error).__name__}: {reason}{then}") from error


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
        parts = [to_device(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def is_under(name: str, parts: Sequence[str]) -> bool:
    """Whether a module or tensor is one of these parts of a network, or lies in one."""
    return any(f"{name}.".startswith(f"{part}.") for part in parts)

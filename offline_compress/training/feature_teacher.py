"""A teacher of features for networks of any make: it listens to both networks."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from mtc_perception.util.errors import UserError
from offline_compress.channels.description import Tap
from offline_compress.training.feature_distance import FeatureDistances


class FeatureTeacher:
    """What a frozen network has to say about a student that was pruned from it.

        with FeatureTeacher(teacher, student, description.taps, kept) as teacher:
            loss = task_loss(student(images), labels) + teacher.loss(images)

    The student's features are those of its last forward pass, with gradients.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        taps: Mapping[str, Tap],
        kept: Mapping[str, Sequence[int]],
    ) -> None:
        """Listen to `student`, and to a frozen copy of `teacher` in eval mode.

        `kept`: per tap that lost channels, those of the teacher that remain. Raises UserError for a
        tap that is no module of both.
        """
        self._taps = dict(taps)
        device = next(student.parameters()).device
        self._teacher = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
        self._own, self._taught = _Ear(student, taps), _Ear(self._teacher, taps)
        self._kept = {tap: list(channels) for tap, channels in kept.items()}
        self._distances: FeatureDistances | None = None

    def loss(self, *inputs: Any) -> torch.Tensor:
        """Mean over the taps of how far the student's features are, 0 to 1, float32 scalar.

        `inputs` are what the student has just read. 0 without taps. Raises UserError if a feature
        is no tensor, or the student has not run.
        """
        if not self._taps:
            return torch.zeros(())
        with torch.no_grad():
            self._teacher(*inputs)
        own, taught = self._own.features(), self._taught.features()
        if self._distances is None:
            widths = {tap: feature.shape[1] for tap, feature in taught.items()}
            kept = {tap: self._kept.get(tap, range(width)) for tap, width in widths.items()}
            self._distances = FeatureDistances(kept, widths, {}).to(next(iter(own.values())).device)
        found = self._distances(own, taught)
        return torch.stack([distance.mean() for distance in found.values()]).mean()

    def close(self) -> None:
        """Stop listening."""
        self._own.close()
        self._taught.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Ear:
    """The features of a network's last forward pass."""

    def __init__(self, network: nn.Module, taps: Mapping[str, Tap]) -> None:
        self._found: dict[str, Any] = {}
        self._taps = taps
        parts = dict(network.named_modules(remove_duplicate=False))
        self._handles = []
        for tap, place in taps.items():
            if isinstance(place, str) and place not in parts:
                raise UserError(f"taps names {place!r}, which is no part of the network")
            module = parts[place] if isinstance(place, str) else network
            self._handles.append(module.register_forward_hook(self._listener(tap, place)))

    def _listener(self, tap: str, place: Tap) -> Any:
        def listen(_module: nn.Module, _args: Any, output: Any) -> None:
            self._found[tap] = output if isinstance(place, str) else place(output)

        return listen

    def features(self) -> dict[str, torch.Tensor]:
        """By tap; each is given once."""
        found, self._found = self._found, {}
        for tap in self._taps:
            if not isinstance(found.get(tap), torch.Tensor):
                raise UserError(f"tap {tap} is no tensor of a forward pass just before")
        return found

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

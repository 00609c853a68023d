"""A checkpoint of the registry as what is pruned: recipes recover it, validation judges it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from mtc_perception.metrics.figures import ACCURACY, judged, judged_by_class
from mtc_perception.util.progress import Count
from offline_compress.channels.groups import ChannelGroup
from offline_compress.channels.surgery import Kept, pruned_spec, shorten_decoder
from offline_compress.models.registry import load_checkpoint, load_spec, save_checkpoint
from offline_compress.pruning.checks import broken_guard, check_network
from offline_compress.recipe.recipe import Recipe
from offline_compress.training.recovery import recover_between_recipe
from offline_compress.training.trainer import Trainer
from offline_compress.training.validation import Validator


class RegistrySubject:
    """`teacher` pruned as `recipe.compress` says."""

    def __init__(
        self,
        recipe: Recipe,
        teacher: Path,
        floors: Mapping[str, int],
        validate: Validator,
        device: torch.device,
    ) -> None:
        """`floors`: fewest channels of every group; `device`: where networks are validated."""
        self._recipe, self._teacher, self._floors = recipe, teacher, floors
        self._validate, self._device = validate, device
        self._pruning = recipe.compression().prune
        pruning = self._pruning
        _, self._spec = shorten_decoder(
            load_checkpoint(teacher),
            load_spec(teacher),
            pruning.decoder_layers,
            pruning.decoder_queries,
        )

    def load(self, folder: Path) -> nn.Module:
        self._spec = load_spec(folder)
        return load_checkpoint(folder)

    def save(
        self, folder: Path, model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept, told: str
    ) -> None:
        spec = pruned_spec(self._spec, model, groups, kept) if kept else self._spec
        lineage = [*spec.lineage, told] if told else spec.lineage
        save_checkpoint(folder, replace(spec, lineage=lineage), model)

    def check(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        check_network(model, groups, self._floors, (self._spec.height, self._spec.width))

    def recovers(self, step: int) -> bool:
        """The last step's recovery is a training of its own, after the pruning."""
        return step < self._pruning.steps and self._pruning.epochs_between > 0

    def recover(self, step: int, cut: Path, out: Path) -> None:
        recipe = recover_between_recipe(self._recipe, cut, self._teacher, step)
        Trainer(recipe, out, self._validate).run()

    def judge(self, folder: Path | None, count: Count) -> dict[str, float]:
        spec, model = load_spec(folder or self._teacher), load_checkpoint(folder or self._teacher)
        metrics = self._validate(model.to(self._device), spec, count)
        return judged(metrics) | judged_by_class(metrics)

    def broken(self, before: Mapping[str, float], after: Mapping[str, float]) -> str:
        return broken_guard(self._pruning.guard, before, after)

    def titled(
        self, before: Mapping[str, float], after: Mapping[str, float]
    ) -> list[tuple[str, float, float]]:
        """In points."""
        return [
            (ACCURACY[name].title, 100 * before[name], 100 * value)
            for name, value in after.items()
            if name in before and name in ACCURACY
        ]

"""The training of a pruned network, as recipes like any other."""

from pathlib import Path
from typing import Any

from offline_compress.models.registry import load_spec
from offline_compress.recipe.compression import Lessons
from offline_compress.recipe.parts import Closing
from offline_compress.recipe.recipe import Recipe

BETWEEN_WARMUP = 0.1
"""Share of a short recovery in which the learning rate rises."""


def recover_recipe(recipe: Recipe, pruned: Path, teacher: Path) -> Recipe:
    """The training that ends a compression: `recipe` with what its `compress.recover` says.

    Args:
        recipe: of the unpruned network.
        pruned: checkpoint from which the network has its shape, and its weights unless
            `recover.from_scratch`.
        teacher: checkpoint that is learnt from.

    Raises UserError if `pruned` is no checkpoint or the recipe says nothing about compression.
    """
    recover = recipe.compression().recover
    origin = {"shape_of" if recover.from_scratch else "start_from": pruned}
    name = f"{recipe.name}-recovered"
    return _applied(recipe, pruned, teacher, recover.distillation, name=name, **origin)


def recover_between_recipe(recipe: Recipe, pruned: Path, teacher: Path, step: int) -> Recipe:
    """The short recovery after pruning step `step`, from the weights of `pruned`: one epoch,
    `epochs_between` long, with a warm-up and decay of its own.

    Where `epochs_between` is 0 there is to be none. Otherwise as `recover_recipe`.
    """
    compression = recipe.compression()
    whole, own = compression.recover.schedule, compression.prune.distillation
    samples = round(compression.prune.epochs_between * whole.samples_per_epoch)
    schedule = whole.model_copy(
        update={
            "epochs": 1,
            "samples_per_epoch": max(whole.batch, samples),
            "warmup_epochs": BETWEEN_WARMUP,
            "validate_every_epochs": 1,
            "patience_epochs": None,
        }
    )
    lessons = compression.recover.distillation
    return _applied(
        recipe,
        pruned,
        teacher,
        lessons if own is None else lessons.model_copy(update={"weight": own}),
        name=f"{recipe.name}-step{step}",
        schedule=schedule,
        start_from=pruned,
        # Other samples in every step.
        seed=(recipe.seed + step) % 2**32,
    )


def _applied(
    recipe: Recipe, pruned: Path, teacher: Path, lessons: Lessons, **fields: Any
) -> Recipe:
    recover = recipe.compression().recover
    changes: dict[str, Any] = {
        # Those of the checkpoint: removing decoder layers changes an argument.
        "arguments": load_spec(pruned).arguments,
        "schedule": recover.schedule,
        "crop": recover.crop or recipe.crop,
        "scale_jitter": recover.scale_jitter or recipe.scale_jitter,
        "closing": recover.closing or recipe.closing,
        "backbone_weights": None,
        "start_from": None,
        "shape_of": None,
        "distillation": None,
        "compress": None,
    }
    if lessons.wanted:
        changes["distillation"] = {"teacher": teacher, **lessons.model_dump()}
    changes |= fields
    closing: Closing | None = changes["closing"]
    if closing and closing.epochs >= changes["schedule"].epochs:
        # All epochs are the last ones.
        own = {"crop": closing.crop, "scale_jitter": closing.scale_jitter}
        changes |= {name: value for name, value in own.items() if value}
        changes |= {"mosaic": 0.0, "closing": None}
    return Recipe.model_validate(recipe.model_copy(update=changes).model_dump(warnings=False))

"""The stages that train: the teacher, pruning it, recovering its student."""

from pathlib import Path
from typing import Any

from mtc_perception.util.errors import UserError
from offline_compress.models.registry import load_spec, model_spec
from offline_compress.pipeline.folder import RunFolder, RunStage, weights
from offline_compress.pipeline.stages import as_json, digest_of
from offline_compress.pruning.prune import prune_network
from offline_compress.recipe.recipe import Recipe
from offline_compress.training.recovery import recover_between_recipe, recover_recipe
from offline_compress.training.state import PREVIOUS_STATE_FILE, STATE_FILE
from offline_compress.training.trainer import MAY_CHANGE, STARTS, Trainer

DATA_FIELDS = {
    *("input", "train", "validate_on", "mask_loss", "seed"),
    *("classes", "ignore", "background"),
}
"""What scoring and validating use of a recipe beside `compress`."""


class Teacher(RunStage):
    """The unpruned network: trained by the recipe itself, unless `compress.teacher` names one."""

    name = "teacher"
    parallel = True

    def inputs(self) -> dict[str, Any]:
        """The training's recipe, or the checkpoint."""
        if self._run.compress.teacher:
            return {"compress": {"teacher": digest_of(weights(self._run.teacher))}}
        return self._run.recipe.model_dump(mode="json", exclude=MAY_CHANGE)

    def made(self) -> list[Path]:
        """Its checkpoint."""
        return [weights(self._run.teacher)]

    def work(self) -> list[Path]:
        """None: the training's folder is not this run's."""
        return []

    def run(self) -> None:
        """Train it, or go on, unless it is there. Raises UserError if that fails."""
        recipe, folder = self._run.recipe, self._run.teacher
        if self._run.compress.teacher is None and not self._put_there():
            try:
                Trainer(recipe, folder.parent).run()
            except UserError as error:
                if not weights(folder).exists():
                    raise
                advice = f"to compress {folder} as it is: --set compress.teacher={folder}"
                raise UserError(f"{error}; {advice}") from None

    def _put_there(self) -> bool:
        """Whether there is a checkpoint without the state of its training: one to be used."""
        run = self._run.teacher.parent
        states = (run / STATE_FILE, run / PREVIOUS_STATE_FILE)
        return weights(self._run.teacher).exists() and not any(map(Path.exists, states))


class Prune(RunStage):
    """Score, remove and recover in steps, until the budget is kept."""

    name = "prune"
    parallel = True

    def inputs(self) -> dict[str, Any]:
        """The teacher, and all of the recipe that the steps use."""
        run, recipe = self._run, self._run.compressing
        compress = run.compress.model_dump(mode="json", include={"scoring", "prune"})
        del compress["prune"]["distillation"]  # of the recovery
        inputs = {
            "teacher": digest_of(weights(run.teacher)),
            **recipe.model_dump(mode="json", include=DATA_FIELDS),
            "compress": compress,
        }
        if run.compress.prune.epochs_between and run.compress.prune.steps > 1:
            # The teacher stands for the networks that are pruned from it.
            between = recover_between_recipe(recipe, run.teacher, run.teacher, 1)
            inputs["recovery"] = training_fields(between)
        return inputs

    def made(self) -> list[Path]:
        """The plan, the first step's scores, and the pruned network."""
        return [self._run.plan, self._run.scores, weights(self._run.pruned)]

    def work(self) -> list[Path]:
        """All steps."""
        return [self._run.prune]

    def run(self) -> None:
        """Go through the steps. Raises UserError for a budget that cannot be reached."""
        prune_network(self._run.compressing, self._run.teacher, self._run.prune)


class Recover(RunStage):
    """Train the pruned network, with the teacher's features unless the recipe does without."""

    name = "recover"
    parallel = True

    def inputs(self) -> dict[str, Any]:
        """Both networks, and the training's recipe."""
        run = self._run
        return {
            "teacher": digest_of(weights(run.teacher)),
            "pruned": digest_of(weights(run.pruned)),
            "from_scratch": run.compress.recover.from_scratch,
            **training_fields(self._recipe()),
        }

    def made(self) -> list[Path]:
        """The student."""
        return [weights(self._run.student)]

    def work(self) -> list[Path]:
        """The training run."""
        return [self._run.recover]

    def run(self) -> None:
        """Train, or go on. Raises Interrupted after a signal, saved."""
        Trainer(self._recipe(), self._run.recover).run()

    def _recipe(self) -> Recipe:
        return recover_recipe(self._run.compressing, self._run.pruned, self._run.teacher)


def training_fields(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that decide what a training run learns, beside other networks."""
    content = recipe.model_dump(mode="json", exclude=MAY_CHANGE)
    for name in STARTS:
        del content[name]
    if recipe.distillation:
        del content["distillation"]["teacher"]
    return content


def require_fitting_teacher(run: RunFolder) -> None:
    """Raise UserError if the teacher, which is there, is none of the recipe's."""
    recipe, found = run.recipe, load_spec(run.teacher)
    wanted = model_spec(
        recipe.model, recipe.class_map.names, recipe.input.height, recipe.input.width
    )
    arguments = {**wanted.arguments, **recipe.arguments}
    for name, own, other in (
        ("architecture", found.architecture, wanted.architecture),
        ("arguments", as_json(found.arguments), as_json(arguments)),
        ("classes", found.classes, wanted.classes),
        ("height and width", (found.height, found.width), (wanted.height, wanted.width)),
        ("fit", found.fit, recipe.input.fit),
    ):
        if own != other:
            raise UserError(
                f"teacher {run.teacher} does not fit recipe {recipe.name}: its {name} {own}, the "
                f"recipe's {other}; take the recipe that it was trained by"
            )

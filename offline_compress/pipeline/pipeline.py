"""`mtc-compress run`: teacher, prune, recover, export, quantise, evaluate, in one folder."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator

from mtc_perception.util.errors import UserError
from mtc_perception.util.files import replacing_folder
from mtc_perception.util.locking import held
from offline_compress.data.labelled import (
    categories_of,
    labelled_sets,
    require_classes,
    source_samples,
)
from offline_compress.importance.calibration import calibration_batches
from offline_compress.models.registry import save_checkpoint
from offline_compress.pipeline.delivery_stages import Evaluate, Export, Quantise
from offline_compress.pipeline.folder import RunFolder, weights
from offline_compress.pipeline.stages import Stage, refuse_losses, run_stages
from offline_compress.pipeline.training_stages import (
    Prune,
    Recover,
    Teacher,
    require_fitting_teacher,
)
from offline_compress.pruning.problem import open_problem
from offline_compress.pruning.prune import dry_run
from offline_compress.ready import make_ready
from offline_compress.recipe.compression import Pruning
from offline_compress.recipe.recipe import Recipe
from offline_compress.training.accelerator import start_accelerator
from offline_compress.training.lineage import trained_spec
from offline_compress.training.samples import samples_per_pass

STAGES = (Teacher, Prune, Recover, Export, Quantise, Evaluate)


def run_pipeline(
    recipe: Recipe,
    out: Path | None,
    command: str,
    until: str = Evaluate.name,
    threads: int | None = None,
    redo: bool = False,
) -> list[Path]:
    """Carry out the recipe's compression up to and with stage `until`, or go on with it.

    `command` is recorded as what makes the result; `threads` per process default to PyTorch's.
    Returns what the last stage made, in the first process. Raises UserError, also where a finished
    stage is of another recipe and not to be done again (`redo`), and Interrupted if a training was
    stopped by a signal; the same call goes on.
    """
    run = RunFolder.of(recipe, out)
    run.require_own()
    accelerator = _prepared(run, threads)
    stages: list[Stage] = [stage(run) for stage in STAGES]
    last = [stage.name for stage in stages].index(until)
    with held(run.path, accelerator.is_main_process):
        if accelerator.is_main_process:
            if not redo:
                refuse_losses(stages[: last + 1], run.path)
            run.open(command)
        run_stages(stages[: last + 1], run.path, accelerator.print)
    return stages[last].made() if accelerator.is_main_process else []


def dry_run_pipeline(recipe: Recipe, out: Path | None, threads: int | None = None) -> Path:
    """Choose the channels of all pruning steps without training, into the run's folder.

    Returns the folder of the plan and its picture. Raises UserError.
    """
    run = RunFolder.of(recipe, out)
    run.require_own()
    if _prepared(run, threads).num_processes > 1:
        raise UserError("a dry run is for one process: leave out the launcher")
    with replacing_folder(run.dry_run) as folder:
        dry_run(run.compressing, run.teacher, folder)
    return run.dry_run


def _prepared(run: RunFolder, threads: int | None) -> Accelerator:
    """Join the processes, and tell mistakes before hours of work rather than after."""
    recipe = run.recipe
    accelerator = start_accelerator(recipe.precision, 1, recipe.deterministic)
    if threads:  # not before: Accelerate sets a number of its own
        torch.set_num_threads(threads)
    trainings = [run.compress.recover.schedule]
    if not run.compress.teacher:
        trainings.append(recipe.schedule)
    for schedule in trainings:
        samples_per_pass(schedule.batch, schedule.accumulate, accelerator.num_processes)
    if not (run.compress.teacher or weights(run.teacher).exists()):
        trained_spec(recipe)  # names checkpoints that are missing
    with accelerator.local_main_process_first():
        make_ready([*recipe.train, *recipe.validate_on, *recipe.tune_on])
    labelled_sets(recipe.validate_on, "evaluate on", recipe.class_map)
    labelled_sets(recipe.tuning, "choose thresholds on", recipe.class_map)
    found: set[str] = set()
    for source in recipe.train:
        samples = source_samples(source)
        require_classes(samples, recipe.class_map, source.root)
        found |= categories_of(samples)
    recipe.class_map.require_all(found)
    calibration_batches(recipe, run.compress.scoring)
    if run.compress.teacher or weights(run.teacher).exists():
        require_fitting_teacher(run)
    else:
        _check_untrained(recipe, run.compress.prune)
    return accelerator


def _check_untrained(recipe: Recipe, pruning: Pruning) -> None:
    """Raise UserError for what pruning would refuse of the network that is yet to be trained."""
    spec = trained_spec(recipe)
    # Nothing is known of its latency yet.
    budget = pruning.budget.model_copy(update={"latency": None})
    pruning = pruning.model_copy(update={"budget": budget, "cost": "none"})
    compress = recipe.compression().model_copy(update={"prune": pruning})
    with TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), spec, spec.build())
        open_problem(
            recipe.model_copy(update={"compress": compress}),
            Path(folder),
            Path(folder),
            False,
            lambda _what, _done, _total: None,
        )

"""Pruning a trained network to a budget, in steps, with nothing but a recipe."""

import copy
from dataclasses import replace
from pathlib import Path

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.util.progress import Progress
from offline_compress.channels.groups import channel_groups
from offline_compress.channels.surgery import keep_channels
from offline_compress.importance.calibration import calibration_batches
from offline_compress.models.registry import ModelSpec, save_checkpoint
from offline_compress.pruning.channel_choice import (
    candidates,
    require_end,
    step_budget,
    trial_batches,
    with_sensitivity,
)
from offline_compress.pruning.channel_scores import (
    SCORING_ADVICE,
    measured_scores,
)
from offline_compress.pruning.iterative import PruningRun, draw
from offline_compress.pruning.plan import Plan, apply, read_plan, write_plan
from offline_compress.pruning.problem import open_problem
from offline_compress.pruning.registry_subject import RegistrySubject
from offline_compress.pruning.steps import extended, lists, predicted_step, remaining, summary
from offline_compress.recipe.recipe import Recipe
from offline_compress.training.accelerator import start_accelerator
from offline_compress.training.advice import memory_advice
from offline_compress.training.validation import Validator, validation_sets, validator

PREDICTED_PLAN_FILE, PREDICTED_PICTURE_FILE = "dry_run.json", "dry_run.png"


def prune_network(
    recipe: Recipe, teacher: Path, out: Path, validate: Validator | None = None
) -> Plan:
    """Prune checkpoint `teacher` as `recipe.compress` says, in folder `out`, or go on there.

    Ends with the checkpoint `out`/best, plan.json and channels.png. `validate` scores networks;
    default: the recipe's validation set. All processes of a launch call this together, with one
    `out` for all. Returns the plan; its last step is one that does not count if the guard has ended
    the pruning.

    Raises UserError for a budget that cannot be reached, a network that cannot be pruned,
    calibration images without labels for a task, a folder that holds the pruning of another
    teacher, and what training raises; Interrupted if a recovery was stopped.
    """
    out.mkdir(parents=True, exist_ok=True)
    accelerator = start_accelerator(recipe.precision, 1, recipe.deterministic)
    batches = calibration_batches(recipe, recipe.compression().scoring)
    main = accelerator.is_main_process
    with accelerator.main_process_first(), Progress(shown=main, alone=True) as progress:
        problem = open_problem(recipe, teacher, out, main, progress.count)
    judge = validate or validator(validation_sets(recipe))
    subject = RegistrySubject(recipe, teacher, problem.floors, judge, accelerator.device)
    return PruningRun(problem, subject, batches, out, accelerator, recipe.seed).run()


def dry_run(recipe: Recipe, teacher: Path, out: Path) -> Plan:
    """Choose the channels of all steps without training: scores, predicted costs, a picture.

    Later steps go by the scores and widths measured for the first one, where the real run measures
    anew. Latencies of the plan are predicted, and no cut is tried (`compress.prune.largest_rise`):
    the real run may keep more of some layers, and less of others. Writes dry_run.json and
    dry_run.png into folder `out`, besides what was measured; no checkpoint. Raises what
    `prune_network` raises.
    """
    accelerator = start_accelerator(recipe.precision, 1, recipe.deterministic)
    pruning = recipe.compression().prune
    batches = calibration_batches(recipe, recipe.compression().scoring)
    out.mkdir(parents=True, exist_ok=True)
    with Progress(alone=True) as progress, memory_advice(SCORING_ADVICE):
        problem = open_problem(recipe, teacher, out, True, progress.count)
        scores = measured_scores(problem, problem.model, batches, out, accelerator, progress.count)
        first = candidates(
            problem, problem.model, problem.groups, scores, 1, recipe.seed + 1, pruning.locked
        )
        require_end(first)
        sensitivity = with_sensitivity(
            first, problem.model, problem.groups, trial_batches(batches), out, progress.count
        ).sensitivity
    plan = problem.empty_plan()
    model, groups = copy.deepcopy(problem.model), problem.groups
    for step in range(1, problem.rules.steps + 1):
        budget = step_budget(problem, step)
        found = candidates(problem, model, groups, scores, step, recipe.seed + step, pruning.locked)
        kept = replace(found, sensitivity=sensitivity).select(budget)
        keep_channels(model, groups, lists(kept))
        groups, scores = channel_groups(model, problem.description), remaining(scores, kept)
        plan = extended(plan, problem, predicted_step(problem, budget, kept), kept)
        print(summary(problem, plan, []))
    write_plan(out / PREDICTED_PLAN_FILE, plan)
    draw(problem, plan, out / PREDICTED_PICTURE_FILE)
    return plan


def replay(plan: Path, teacher: Path, out: Path) -> ModelSpec:
    """Cut checkpoint `teacher` as a plan says into checkpoint `out`, with the teacher's weights.

    Returns its spec. Raises UserError if the plan was made for another teacher.
    """
    spec, model = apply(read_plan(plan), teacher)
    digest = sha256_hex(plan.read_bytes())
    told = f"cut by the plan with sha256 {digest}, not trained since"
    spec = replace(spec, lineage=[*spec.lineage, told])
    save_checkpoint(out, spec, model)
    return spec

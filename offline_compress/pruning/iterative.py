"""The course of a pruning: score, select, cut, recover, judge, in steps that resume.

A folder holds, in the order in which it fills:

    latency.json   table of the target engine, if the recipe needs one
    teacher.json   validation figures of the unpruned network
    plan.json      the plan: without steps, which names the teacher, until pruning is over
    step_K/        scores.safetensors, sensitivity.json if the recipe goes by it, cut/ (checkpoint
                   and plan), recovery/ (a training run) and, when the step is over, plan.json;
                   again/ with the last three, if it was taken back
    channels.png   what every layer keeps
    best/          checkpoint of the pruned network

Processes score, recover and validate together; the first one measures, chooses and cuts.
"""

import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from mtc_perception.metrics.figures import judged
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import NamedCount, Progress
from offline_compress.channels.groups import channel_groups
from offline_compress.channels.surgery import keep_channels, pruned_spec
from offline_compress.importance import ChannelScores
from offline_compress.importance.calibration import calibration_batches
from offline_compress.models.registry import load_checkpoint, load_spec, save_checkpoint
from offline_compress.pruning.channel_choice import (
    candidates,
    measured_choice,
    require_end,
    step_budget,
    trial_batches,
    with_sensitivity,
)
from offline_compress.pruning.channel_scores import (
    SCORING_ADVICE,
    exists_at_first,
    measured_scores,
)
from offline_compress.pruning.checks import broken_guard, check_network, recalibrate
from offline_compress.pruning.picture import draw_channels
from offline_compress.pruning.plan import Plan, read_plan, write_plan
from offline_compress.pruning.problem import PruningProblem, open_problem
from offline_compress.pruning.steps import extended, lists, measured_step, summary, with_last
from offline_compress.recipe.recipe import Recipe
from offline_compress.training.accelerator import start_accelerator
from offline_compress.training.advice import memory_advice
from offline_compress.training.recovery import recover_between_recipe
from offline_compress.training.trainer import Trainer
from offline_compress.training.validation import Validator

PLAN_FILE, TEACHER_FILE, PICTURE_FILE = "plan.json", "teacher.json", "channels.png"


class PruningRun:
    """A pruning in one folder, as far as it has come."""

    def __init__(self, recipe: Recipe, teacher: Path, out: Path, validate: Validator) -> None:
        """Open the folder `out`. Raises UserError for what cannot be pruned as the recipe says."""
        self._recipe, self._teacher, self._out = recipe, teacher, out
        self._validate = validate
        self._accelerator = start_accelerator(recipe.precision, 1, recipe.deterministic)
        self._batches = calibration_batches(recipe, recipe.compression().scoring)
        self._main = self._accelerator.is_main_process
        with self._accelerator.main_process_first(), self._progress() as progress:
            self.problem = open_problem(recipe, teacher, out, self._main, progress.count)
        self.plan = self.problem.empty_plan()
        """All steps that are over."""
        if self._exists(out / PLAN_FILE):
            self._read(out / PLAN_FILE)
        else:
            self._write(out / PLAN_FILE, self.plan)
        self._spec, self._model = self.problem.spec, self.problem.model
        self._teacher_scores = self._scores_of_teacher()

    @property
    def taken_back(self) -> bool:
        """Whether the guard has ended the pruning."""
        return bool(self.plan.steps and self.plan.steps[-1].taken_back)

    def step(self, number: int) -> None:
        """Do a step, or what is missing of it; once more with twice the locks if taken back."""
        folder, share = self._out / f"step_{number}", self.problem.pruning.locked
        plan, result = self._attempt(number, folder, share)
        if (why := plan.steps[-1].taken_back) and share:
            tried = self._read(folder / "cut" / PLAN_FILE).kept
            plan, result = self._attempt(number, folder / "again", min(1.0, 2 * share), tried)
            plan = with_last(plan, taken_back_before=why)
        self.plan = plan
        if not self.taken_back:
            self._spec, self._model = load_spec(result), load_checkpoint(result)

    def _attempt(
        self, number: int, folder: Path, share: float, tried: dict[str, list[int]] | None = None
    ) -> tuple[Plan, Path]:
        """The plan with a step that locks `share`, done in `folder` or read there; its network.

        A cut that leaves what was `tried` before is not recovered once more.
        """
        folder.mkdir(exist_ok=True)
        pruning = self.problem.pruning
        recovers = number < pruning.steps and pruning.epochs_between > 0
        result = folder / "recovery" / "best" if recovers else folder / "cut"
        if self._exists(folder / PLAN_FILE):
            return self._read(folder / PLAN_FILE), result
        plan = self._cut(number, folder, share)
        after = plan.steps[-1].cut
        if same := plan.kept == tried:
            recovers = False
        if recovers:
            self._recover(number, folder)
            after = self._validated(result, f"validating step {number}")
        # The last step's recovery is a training of its own, after the pruning.
        guard = broken_guard(pruning.guard, self._teacher_scores, after) if recovers else ""
        if same:
            guard = "with twice the locked channels the cut is the same"
        plan = with_last(plan, after=after, taken_back=guard)
        if guard:
            plan = plan.model_copy(update={"kept": self.plan.kept})
        self._write(folder / PLAN_FILE, plan)
        self._say(summary(self.problem, plan, self._teacher_scores))
        return plan, result

    def finish(self) -> None:
        """Write the pruned network, the picture and the plan."""
        if self._main:
            save_checkpoint(self._out / "best", self._spec, self._model)
            draw(self.problem, self.plan, self._out / PICTURE_FILE)
        self._write(self._out / PLAN_FILE, self.plan)

    def _cut(self, number: int, folder: Path, share: float) -> Plan:
        """Score, select and cut into the folder's cut/, and validate that; the plan so far."""
        cut = folder / "cut"
        if not self._exists(cut / PLAN_FILE):
            scored = self._out / f"step_{number}"  # A second attempt begins with the same network.
            with self._progress() as progress, memory_advice(SCORING_ADVICE):
                count = progress.count
                scores = measured_scores(
                    self.problem, self._model, self._batches, scored, self._accelerator, count
                )
                if self._main:
                    self._choose_and_cut(number, scores, share, cut, count)
            self._accelerator.wait_for_everyone()
        plan = self._read(cut / PLAN_FILE)
        if not plan.steps[-1].cut:
            plan = with_last(plan, cut=self._validated(cut, f"validating the cut of step {number}"))
            self._write(cut / PLAN_FILE, plan)
        return plan

    def _choose_and_cut(
        self, number: int, scores: ChannelScores, share: float, cut: Path, count: NamedCount
    ) -> None:
        problem, model = self.problem, copy.deepcopy(self._model)
        groups = channel_groups(model, problem.description)
        before = self.plan.steps[-1] if self.plan.steps else None
        found = candidates(
            problem, model, groups, scores, number, self._recipe.seed + number, share
        )
        if number == 1 and share == problem.pruning.locked:
            require_end(found)
        model.to(self._accelerator.device)
        batches = trial_batches(self._batches)
        scored = self._out / f"step_{number}"  # A second attempt begins with the same network.
        found = with_sensitivity(found, model, groups, batches, scored, count)
        choice = measured_choice(
            problem,
            model,
            groups,
            found,
            batches,
            number,
            before,
            count,
        )
        model.to("cpu")
        kept = lists(choice.kept)
        keep_channels(model, groups, kept)
        spec = pruned_spec(self._spec, model, groups, kept)
        model.to(self._accelerator.device)
        recalibrate(model, self._batches, problem.description, partial(count, "recalibrating"))
        model.to("cpu")
        check_network(
            model, channel_groups(model, problem.description), problem.floors, problem.size
        )
        step = measured_step(problem, step_budget(problem, number), choice, model)
        scores_before = before.after if before else self._teacher_scores
        step = step.model_copy(update={"before": scores_before, "locked": share})
        told = f"pruned to {step.parameters} parameters and {step.gmacs:.4g} GMACs"
        spec = replace(spec, lineage=[*spec.lineage, told])
        save_checkpoint(cut, spec, model)
        write_plan(cut / PLAN_FILE, extended(self.plan, problem, step, choice.kept))

    def _recover(self, number: int, folder: Path) -> None:
        self._say(f"step {number} of {self.problem.pruning.steps}: recovery")
        short = recover_between_recipe(self._recipe, folder / "cut", self._teacher, number)
        Trainer(short, folder / "recovery", self._validate).run()

    def _scores_of_teacher(self) -> dict[str, float]:
        path = self._out / TEACHER_FILE
        if not self._exists(path):
            scores = self._validated(self._teacher, "validating the teacher")
            if self._main:
                write_text_atomic(path, json.dumps(scores, indent=1) + "\n")
            self._accelerator.wait_for_everyone()
        found: dict[str, float] = json.loads(path.read_text())
        return found

    def _validated(self, checkpoint: Path, what: str) -> dict[str, float]:
        spec, model = load_spec(checkpoint), load_checkpoint(checkpoint)
        with self._progress() as progress:
            model.to(self._accelerator.device)
            metrics = self._validate(model, spec, progress.counter(what, "img"))
        return judged(metrics)

    def _read(self, path: Path) -> Plan:
        plan = read_plan(path)
        if plan.teacher_sha256 != self.problem.sha256:
            raise UserError(f"{path} is of another teacher; choose another folder or delete it")
        return plan

    def _exists(self, path: Path) -> bool:
        """As the first process sees it: what follows is the same in all."""
        return exists_at_first(path, self._accelerator)

    def _write(self, path: Path, plan: Plan) -> None:
        if self._main:
            write_plan(path, plan)
        self._accelerator.wait_for_everyone()

    def _progress(self) -> Progress:
        return Progress(shown=self._main, alone=True)

    def _say(self, line: str) -> None:
        if self._main:
            print(line)


def draw(problem: PruningProblem, plan: Plan, path: Path) -> None:
    """Draw what a plan keeps."""
    counts = {name: len(channels) for name, channels in plan.kept.items()}
    left = problem.costs.total(
        {name: counts.get(name, size) for name, size in _sizes(problem).items()}
    )
    title = (
        f"{plan.teacher}: {left[0] / problem.whole[0]:.0%} of the parameters and "
        f"{left[1] / problem.whole[1]:.0%} of the multiply-accumulates remain"
    )
    draw_channels(path, problem.groups, counts, problem.floors, title)


def _sizes(problem: PruningProblem) -> dict[str, int]:
    return dict(zip(problem.costs.groups, problem.costs.sizes.tolist(), strict=True))

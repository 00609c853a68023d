"""The course of a pruning: score, select, cut, recover, judge, in steps that resume.

A folder holds, in the order in which it fills:

    latency.json   table of the target engine, if the rules need one
    teacher.json   validation figures of the unpruned network
    plan.json      the plan: without steps, which names the teacher, until pruning is over
    step_K/        scores.safetensors, sensitivity.json if the rules go by it, cut/ (checkpoint
                   and plan), recovery/ (a training run) and, when the step is over, plan.json;
                   again/ with the last three, if it was taken back
    channels.png   what every layer keeps
    best/          checkpoint of the pruned network

Processes score, recover and validate together; the first one measures, chooses and cuts.
"""

import copy
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import NamedCount, Progress
from offline_compress.channels.proof import proven_groups
from offline_compress.channels.surgery import keep_channels
from offline_compress.importance import ChannelScores
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
from offline_compress.pruning.checks import recalibrate
from offline_compress.pruning.picture import draw_channels
from offline_compress.pruning.plan import Plan, read_plan, write_plan
from offline_compress.pruning.problem import PruningProblem
from offline_compress.pruning.steps import extended, lists, measured_step, summary, with_last
from offline_compress.pruning.subject import Subject
from offline_compress.training.advice import memory_advice

RESULT_FOLDER = "best"
PLAN_FILE, TEACHER_FILE, PICTURE_FILE = "plan.json", "teacher.json", "channels.png"


class PruningRun:
    """A pruning in one folder, as far as it has come."""

    def __init__(
        self,
        problem: PruningProblem,
        subject: Subject,
        batches: Sequence[Any],
        out: Path,
        accelerator: Accelerator,
        seed: int,
    ) -> None:
        """Open the folder `out`; `batches` are what channels are scored on.

        Raises UserError for a folder that holds the pruning of another network.
        """
        self.problem, self._subject, self._batches = problem, subject, batches
        self._out, self._accelerator, self._seed = out, accelerator, seed
        self._main = accelerator.is_main_process
        self.plan = problem.empty_plan()
        """All steps that are over."""
        if self._exists(out / PLAN_FILE):
            self._read(out / PLAN_FILE)
        else:
            self._write(out / PLAN_FILE, self.plan)
        self._model = problem.model
        self._first_figures = self._figures_before()

    def run(self) -> Plan:
        """Do all steps, or those that are missing, and write the result; the whole plan."""
        for step in range(1, self.problem.rules.steps + 1):
            if not self.taken_back:
                self._step(step)
        if self._main:
            self._subject.save(self._out / RESULT_FOLDER, self._model, [], {}, "")
            draw(self.problem, self.plan, self._out / PICTURE_FILE)
        self._write(self._out / PLAN_FILE, self.plan)
        return self.plan

    @property
    def taken_back(self) -> bool:
        """Whether the guard has ended the pruning."""
        return bool(self.plan.steps and self.plan.steps[-1].taken_back)

    def _step(self, number: int) -> None:
        """Do a step, or what is missing of it; once more with twice the locks if taken back."""
        folder, share = self._out / f"step_{number}", self.problem.rules.locked
        plan, result = self._attempt(number, folder, share)
        if (why := plan.steps[-1].taken_back) and share:
            tried = self._read(folder / "cut" / PLAN_FILE).kept
            plan, result = self._attempt(number, folder / "again", min(1.0, 2 * share), tried)
            plan = with_last(plan, taken_back_before=why)
        self.plan = plan
        if not self.taken_back:
            self._model = self._subject.load(result)

    def _attempt(
        self, number: int, folder: Path, share: float, tried: dict[str, list[int]] | None = None
    ) -> tuple[Plan, Path]:
        """The plan with a step that locks `share`, done in `folder` or read there; its network.

        A cut that leaves what was `tried` before is not recovered once more.
        """
        folder.mkdir(exist_ok=True)
        recovers = self._subject.recovers(number)
        result = folder / "recovery" / RESULT_FOLDER if recovers else folder / "cut"
        if self._exists(folder / PLAN_FILE):
            return self._read(folder / PLAN_FILE), result
        plan = self._cut(number, folder, share)
        after = plan.steps[-1].cut
        if same := plan.kept == tried:
            recovers = False
        if recovers:
            self._say(f"step {number} of {self.problem.rules.steps}: recovery")
            self._subject.recover(number, folder / "cut", folder / "recovery")
            after = self._judged(result, f"validating step {number}")
        guard = self._subject.broken(self._first_figures, after) if recovers else ""
        if same:
            guard = "with twice the locked channels the cut is the same"
        plan = with_last(plan, after=after, taken_back=guard)
        if guard:
            plan = plan.model_copy(update={"kept": self.plan.kept})
        self._write(folder / PLAN_FILE, plan)
        figures = self._subject.titled(self._first_figures, after)
        self._say(summary(self.problem, plan, figures))
        return plan, result

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
            plan = with_last(plan, cut=self._judged(cut, f"validating the cut of step {number}"))
            self._write(cut / PLAN_FILE, plan)
        return plan

    def _choose_and_cut(
        self, number: int, scores: ChannelScores, share: float, cut: Path, count: NamedCount
    ) -> None:
        problem, model = self.problem, copy.deepcopy(self._model)
        groups = proven_groups(model, problem.description)
        before = self.plan.steps[-1] if self.plan.steps else None
        found = candidates(problem, model, groups, scores, number, self._seed + number, share)
        if number == 1 and share == problem.rules.locked:
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
        model.to(self._accelerator.device)
        recalibrate(model, self._batches, problem.description, partial(count, "recalibrating"))
        model.to("cpu")
        self._subject.check(model, proven_groups(model, problem.description))
        step = measured_step(problem, step_budget(problem, number), choice, model)
        scores_before = before.after if before else self._first_figures
        step = step.model_copy(update={"before": scores_before, "locked": share})
        told = f"pruned to {step.parameters} parameters and {step.gmacs:.4g} GMACs"
        self._subject.save(cut, model, groups, kept, told)
        write_plan(cut / PLAN_FILE, extended(self.plan, problem, step, choice.kept))

    def _figures_before(self) -> dict[str, float]:
        path = self._out / TEACHER_FILE
        if not self._exists(path):
            figures = self._judged(None, "validating the teacher")
            if self._main:
                write_text_atomic(path, json.dumps(figures, indent=1) + "\n")
            self._accelerator.wait_for_everyone()
        found: dict[str, float] = json.loads(path.read_text())
        return found

    def _judged(self, folder: Path | None, what: str) -> dict[str, float]:
        with self._progress() as progress:
            return self._subject.judge(folder, progress.counter(what, "img"))

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

"""The networks of a study, each in a folder of its own: how it is made, and how it is judged.

What a judged network leaves, evidence and `JUDGED_FILE`, is on record also without its weights:
the tables need no more.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import Progress
from offline_compress.evaluation.accuracy import evaluate_subject
from offline_compress.evaluation.evidence_file import write_evidence
from offline_compress.evaluation.subject import open_subject
from offline_compress.models.registry import load_spec
from offline_compress.pipeline.folder import RunFolder, weights
from offline_compress.pipeline.stages import Stage, as_json, digest_of
from offline_compress.pipeline.training_stages import Prune, training_fields
from offline_compress.pruning.plan import read_plan
from offline_compress.recipe.parts import DataSource, Schedule
from offline_compress.recipe.recipe import Recipe
from offline_compress.study.folds import HELD_OUT, Fold, fold_recipe, judged_sets
from offline_compress.study.study import TEACHER, Row, Study
from offline_compress.training.recovery import recover_recipe
from offline_compress.training.trainer import STARTS, Trainer

EVIDENCE = "evidence"
"""Folder of a network's evidence files, one for every set that it is judged on."""
JUDGED_FILE = "judged.json"
"""What the network is, by which terms it was made and judged, and digests of its evidence."""


class Training:
    """Stage: a training whose last network counts. No epoch is chosen."""

    parallel = True

    def __init__(self, name: str, folder: Path, recipe: Callable[[], Recipe], of: Schedule) -> None:
        """`recipe` is asked for when the checkpoints that it names are there; `of` is its
        schedule."""
        self.name, self._folder, self._recipe = name, folder, recipe
        self.samples = of.epochs * of.samples_per_epoch

    def inputs(self) -> dict[str, Any]:
        """What the training learns, and the networks that it starts from and learns after."""
        recipe = self._recipe()
        named = {name: getattr(recipe, name) for name in STARTS}
        named["teacher"] = recipe.distillation and recipe.distillation.teacher
        digests = {name: digest_of(weights(path)) for name, path in named.items() if path}
        return training_fields(recipe) | digests

    def made(self) -> list[Path]:
        """The network after the last step."""
        return [weights(self._folder / "last")]

    def work(self) -> list[Path]:
        """The run."""
        return [self._folder]

    def run(self) -> None:
        """Train, or go on. Raises Interrupted after a signal, saved."""
        Trainer(self._recipe(), self._folder).run()


class Judging:
    """Stage: a network on every set that it is judged on, evidence kept per image."""

    name = "judge"
    parallel = False
    samples = 0

    def __init__(
        self, folder: Path, checkpoint: Path, study: Study, fold: Fold, made_by: dict[str, Any]
    ) -> None:
        """`made_by` is all that decided how the checkpoint was made, as JSON."""
        self._folder, self._checkpoint, self._study, self._fold = folder, checkpoint, study, fold
        self._made_by = made_by

    def inputs(self) -> dict[str, Any]:
        """The network, and the sets."""
        sources = {
            HELD_OUT: [source.model_dump(mode="json") for source in self._fold.judged],
            "others": [source.model_dump(mode="json") for source in self._study.evaluate_on],
        }
        conditions = self._study.held_out.conditions
        return {"network": digest_of(weights(self._checkpoint)), **sources, "by": conditions}

    def made(self) -> list[Path]:
        """A file per set, and what the network is."""
        return [*self._files.values(), self._folder / JUDGED_FILE]

    def work(self) -> list[Path]:
        """None: files are written over one by one."""
        return []

    def run(self) -> None:
        """Write them."""
        subject = open_subject(self._checkpoint)
        (self._folder / EVIDENCE).mkdir(exist_ok=True)
        sets = judged_sets(self._study, self._fold, subject.class_map)
        with Progress(alone=True) as progress:
            for name, samples in sets.items():
                counted = progress.track(samples, f"judging on {name}", unit="img")
                frames = evaluate_subject(subject, counted).frames
                write_evidence(
                    self._files[name],
                    [frame.sample.stem for frame in frames],
                    [frame.evidence for frame in frames],
                    [frame.sample.attributes for frame in frames],
                )
        content = {
            "params": subject.params,
            "gmacs": subject.gmacs,
            "sha256": digest_of(weights(self._checkpoint)),
            "spec": asdict(load_spec(self._checkpoint)),
            "terms": self._terms(),
            "evidence": self._digests(),
        }
        write_text_atomic(self._folder / JUDGED_FILE, json.dumps(content, indent=2) + "\n")

    def on_record(self) -> bool:
        """Whether a network was judged that was made by these terms, and its weights are gone."""
        if weights(self._checkpoint).exists():
            return False
        try:
            found = read_judged(self._folder)
        except UserError:
            return False
        return (found["terms"], found["evidence"]) == (as_json(self._terms()), self._digests())

    def _terms(self) -> dict[str, Any]:
        return {
            "made_by": self._made_by,
            HELD_OUT: named_sources(self._fold.judged),
            "others": named_sources(self._study.evaluate_on),
            "by": self._study.held_out.conditions,
        }

    @property
    def _files(self) -> dict[str, Path]:
        names = [HELD_OUT, *self._study.further_sets]
        return {name: self._folder / EVIDENCE / f"{name}.npz" for name in names}

    def _digests(self) -> dict[str, str]:
        return {name: digest_of(path) for name, path in self._files.items()}


def read_judged(folder: Path) -> dict[str, Any]:
    """What is known of the network of a folder. Raises UserError if it was not judged."""
    try:
        content: dict[str, Any] = json.loads((folder / JUDGED_FILE).read_text())
        content["terms"], content["evidence"], content["spec"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / JUDGED_FILE} cannot be read: {error}") from None
    return content


def named_sources(sources: Sequence[DataSource]) -> list[dict[str, Any]]:
    """Data sources as JSON, wherever this machine has them."""
    return [one.model_dump(mode="json") | {"root": one.root.name} for one in sources]


@dataclass(frozen=True, slots=True)
class Network:
    """One network of a study, or what those of all seeds begin with: a pruning, a training."""

    row: str
    drive: str
    """That is held out."""
    seed: int | None
    """None: one for all seeds."""
    folder: Path
    checkpoint: Path
    stages: list[Stage]
    starts_from: Sequence[Path] = ()
    """Checkpoints of the study."""

    @property
    def name(self) -> str:
        """For people: drive, row and seed."""
        return f"{self.drive} {self.row}" + ("" if self.seed is None else f"-s{self.seed}")

    @property
    def judging(self) -> Judging | None:
        """How it is judged, if it is."""
        return last if isinstance(last := self.stages[-1], Judging) else None


def networks_of(study: Study, fold: Fold, out: Path) -> Iterator[Network]:
    """All networks of a fold, those that others are made from first. Raises UserError for a recipe
    that is refused."""
    recipe = fold_recipe(study, fold)
    folder = out / fold.drive / TEACHER
    teacher = folder / "train" / "last"
    trained_by = _trained_by(recipe)
    judging = Judging(folder, teacher, study, fold, trained_by)
    stages: list[Stage] = [_first_training(recipe, folder), judging]
    yield Network(TEACHER, fold.drive, None, folder, teacher, stages)
    for row in study.rows:
        folder = out / fold.drive / row.name
        run = RunFolder(_recipe(study, fold, row, teacher), folder)
        made_by = {"training": trained_by, "recover": run.compress.recover.model_dump(mode="json")}
        start, of = teacher, [teacher]
        first: Stage | None = None
        if row.kind == "student":
            by = study.pruning_row(row)
            prune = RunFolder(_recipe(study, fold, by, teacher), out / fold.drive / by.name)
            start, first = prune.pruned, None if row.pruned_by else Prunes(prune)
            of = [teacher, start]
            pruned_by = prune.compress.model_dump(mode="json", include={"scoring", "prune", "seed"})
            made_by |= {"prune": pruned_by}
        elif row.kind == "direct":
            start = folder / "train" / "last"
            first, of = _first_training(run.recipe, folder), [start]
            made_by |= {"training": _trained_by(run.recipe)}
        if first:
            begins = [teacher] if row.kind == "student" else []
            yield Network(row.name, fold.drive, None, folder, start, [first], begins)
        for seed in study.seeds:
            own = out / fold.drive / f"{row.name}-s{seed}"
            recipe = run.recipe.model_copy(update={"seed": seed})
            recover = Training(
                "recover",
                own / "recover",
                partial(recover_recipe, recipe, start, teacher),
                run.compress.recover.schedule,
            )
            checkpoint = own / "recover" / "last"
            judging = Judging(own, checkpoint, study, fold, made_by | {"seed": seed})
            yield Network(row.name, fold.drive, seed, own, checkpoint, [recover, judging], of)


def _trained_by(recipe: Recipe) -> dict[str, Any]:
    """What decides how a recipe trains, wherever its data and checkpoints lie."""
    sources = {name: named_sources(getattr(recipe, name)) for name in ("train", "validate_on")}
    starts = {name: str(getattr(recipe, name) or "") for name in STARTS}
    return training_fields(recipe) | sources | starts


def _first_training(recipe: Recipe, folder: Path) -> Training:
    return Training("train", folder / "train", lambda: recipe, recipe.schedule)


def _recipe(study: Study, fold: Fold, row: Row, teacher: Path) -> Recipe:
    # Only a student needs the teacher to get back to it; the others learn from labels alone.
    alone = {} if row.kind == "student" else {"compress.recover.distillation": 0}
    return fold_recipe(study, fold, alone | row.set | {"compress.teacher": str(teacher)})


class Prunes(Prune):
    """Stage: the teacher is pruned, as in `mtc-compress run`, all the way to the budget."""

    @property
    def samples(self) -> int:
        """Of the short recoveries between the steps."""
        compress = self._run.compress
        schedule = compress.recover.schedule
        each = max(
            schedule.batch, round(compress.prune.epochs_between * schedule.samples_per_epoch)
        )
        return each * (compress.prune.steps - 1) if compress.prune.epochs_between else 0

    def run(self) -> None:
        """Go through the steps. Raises UserError for a budget that cannot be reached, or that the
        guard keeps from being reached: such a student would be compared as what it is not."""
        super().run()
        step = read_plan(self._run.plan).steps[-1]
        if step.taken_back:
            why = step.taken_back_before or step.taken_back
            raise UserError(
                f"{self._run.prune}: pruning ended before its budget, {why}; loosen that guard or "
                "the budget in the study, or leave the row out"
            )

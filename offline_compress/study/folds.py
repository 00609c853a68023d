"""What a fold learns from and is judged by: all drives but one, and that one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mtc_perception.core.class_map import ClassMap
from mtc_perception.datasets.layout import Sample
from mtc_perception.util.errors import UserError
from offline_compress.data.labelled import require_classes, source_samples
from offline_compress.evaluation.conditions import with_conditions
from offline_compress.models.registry import load_spec
from offline_compress.ready import make_ready, require_data
from offline_compress.recipe.parts import DataSource
from offline_compress.recipe.recipe import Recipe, changes_of, load_recipe
from offline_compress.study.study import HeldOut, Study

HELD_OUT = "held_out"
"""Name of what a fold holds out among the sets that its networks are judged on."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A drive that is held out, and the data sources without it."""

    drive: str
    training: list[DataSource]
    """Of the data set that the drive is part of; weights are shares of images, with sum 1."""
    judged: list[DataSource]
    """The drive alone."""


def folds_of(held_out: HeldOut) -> list[Fold]:
    """A fold for every drive. Raises UserError for a data set that is missing, a drive without
    images, and images that are of no drive or of two."""
    require_data([DataSource(root=held_out.root, split=split) for split in held_out.splits])
    stems = {split: _stems(held_out.root, split) for split in held_out.splits}
    for split, found in stems.items():
        for stem in found:
            drives = [name for name, one in held_out.drives.items() if _fits(stem, one)]
            if len(drives) != 1:
                of = " and ".join(drives) or "none of the study"
                raise UserError(f"{held_out.root} {split}: the drive of {stem} is {of}")
    return [_fold(held_out, stems, drive) for drive in held_out.drives]


def _fold(held_out: HeldOut, stems: Mapping[str, Sequence[str]], drive: str) -> Fold:
    patterns = held_out.drives[drive]
    training, judged = [], []
    for split, found in stems.items():
        own = [pattern for pattern in patterns if any(_fits(stem, [pattern]) for stem in found)]
        source = DataSource(
            root=held_out.root,
            split=split,
            thin={
                pattern: step
                for pattern, step in held_out.thin.items()
                if any(_fits(stem, [pattern]) for stem in found)
            },
        )
        if own:
            judged.append(source.model_copy(update={"only": tuple(own)}))
        if not all(_fits(stem, patterns) for stem in found):
            others = source.model_copy(update={"without": tuple(own)})
            training.append((others, len(source_samples(others))))
    if not judged:
        raise UserError(f"{held_out.root} has no image of drive {drive}: {', '.join(patterns)}")
    total = sum(count for _, count in training)
    return Fold(
        drive,
        [one.model_copy(update={"weight": count / total}) for one, count in training],
        judged,
    )


def fold_recipe(study: Study, fold: Fold, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The study's recipe with the sources of a fold, and `changes` of its fields.

    The drives that remain have the weight that the recipe gives their data set. Raises UserError
    for a recipe that does not learn from that data set, or that chooses by it.
    """
    fields = study.set | dict(changes or {})
    recipe = load_recipe(study.recipe, changes_of(fields))
    root = study.held_out.root.resolve()
    own = [source for source in recipe.train if source.root.resolve() == root]
    others = [source for source in recipe.train if source.root.resolve() != root]
    weight = sum(source.weight for source in own)
    if not own:
        raise UserError(f"recipe {recipe.name} does not train on {study.held_out.root}")
    for source in [*recipe.validate_on, *recipe.tune_on]:
        for reported in (study.held_out.root, *(one.root for one in study.evaluate_on)):
            if source.root.resolve() == reported.resolve():
                raise UserError(
                    f"recipe {recipe.name} chooses by {source.title}, which the study reports: "
                    "set validate_on to something else"
                )
    # Whatever else the recipe says of the data set holds for all of its splits.
    drives = [
        own[0].model_copy(
            update={
                **one.model_dump(include={"split", "only", "without", "thin"}),
                "weight": weight * one.weight,
            }
        )
        for one in fold.training
    ]
    return recipe.model_copy(
        update={"name": f"{study.name}-{fold.drive}", "train": drives + others}
    )


def judged_sets(study: Study, fold: Fold, classes: ClassMap) -> dict[str, list[Sample]]:
    """The images that the networks of a fold are judged on, by set, with labels or without.

    Raises UserError, also for labels that no class takes.
    """
    own = [sample for one in fold.judged for sample in source_samples(one)]
    sets = {HELD_OUT: list(with_conditions(own, study.held_out.conditions))}
    further = map(source_samples, study.evaluate_on)
    sets |= dict(zip(study.further_sets, further, strict=True))
    for name, samples in sets.items():
        require_classes(samples, classes, Path(name))
    return sets


def refuse_leaks(study: Study, fold: Fold, recipes: Sequence[Recipe]) -> None:
    """Raise UserError if an image that the networks of a fold are judged on is among those that a
    recipe learns from or chooses by; and as `refuse_seen`.

    Renders the roads that are missing.
    """
    refuse_seen(study, recipes)
    sets = judged_sets(study, fold, recipes[0].class_map)
    judged = {sample.image_path.resolve() for samples in sets.values() for sample in samples}
    sources = [one for recipe in recipes for one in (*recipe.train, *recipe.validate_on)]
    make_ready(sources)
    for source in {one.title: one for one in sources}.values():
        for sample in source_samples(source):
            if sample.image_path.resolve() in judged:
                raise UserError(f"{sample.image_path} is reported, and is in {source.title}")


def refuse_seen(study: Study, recipes: Sequence[Recipe]) -> None:
    """Raise UserError if a checkpoint that a recipe starts from, or learns after, is missing or has
    seen the data set of which drives are held out, or a split that is reported."""
    reported = {(source.root.name, source.split) for source in study.evaluate_on}
    learnt = [(one.start_from, one.distillation and one.distillation.teacher) for one in recipes]
    for checkpoint in {path for paths in learnt for path in paths if path}:
        for title in load_spec(checkpoint).data:
            # A source's title: root, split, what it takes of it. Other makers' may be one word.
            root, split = [*title.split(), "", ""][:2]
            if root == study.held_out.root.name or (root, split) in reported:
                raise UserError(f"{checkpoint} has seen {title}, of which images are reported")


def _stems(root: Path, split: str) -> list[str]:
    return [sample.stem for sample in source_samples(DataSource(root=root, split=split))]


def _fits(stem: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(stem, pattern) for pattern in patterns)

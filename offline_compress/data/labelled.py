"""The samples of a data source, with a warning of what of its labels cannot be read."""

import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from mtc_perception.core.class_map import ClassMap
from mtc_perception.datasets.layout import LayoutError, Sample, read_split
from mtc_perception.datasets.sample import Problem
from mtc_perception.util.errors import UserError
from offline_compress.recipe.parts import DataSource, set_names


def labelled_split(
    source: DataSource, purpose: str, classes: ClassMap | None = None
) -> list[Sample]:
    """All samples of a source, to `purpose`, e.g. `train on`.

    Raises LayoutError and UserError as `source_samples`, LayoutError also if none of them is
    labelled, and UserError if there are labels that no class of `classes` takes.
    """
    samples = source_samples(source)
    if not any(sample.labelled for sample in samples):
        raise LayoutError(
            f"split {source.split} of {source.root} has no labels to {purpose}: "
            f"`mtc-compress check-data {source.root}` tells what is there"
        )
    if classes is not None:
        require_classes(samples, classes, source.root)
    return samples


def labelled_sets(
    sources: Sequence[DataSource], purpose: str, classes: ClassMap | None = None
) -> dict[str, list[Sample]]:
    """The same of several sources, by their names. Raises as `labelled_split`."""
    names = set_names(sources)
    return {
        name: labelled_split(source, purpose, classes)
        for name, source in zip(names, sources, strict=True)
    }


def evenly(samples: Sequence[Sample], most: int) -> list[Sample]:
    """`most` samples at even distances (all, if there are no more): always the same ones."""
    count = min(most, len(samples))
    return [samples[(2 * k + 1) * len(samples) // (2 * count)] for k in range(count)]


def labels_in_words(samples: Sequence[Sample]) -> str:
    """How many images there are, and in how many of them each task is labelled."""
    counts = {
        "boxes": sum(sample.boxes is not None for sample in samples),
        "drivable": sum(sample.drivable is not None for sample in samples),
        "lane": sum(sample.lane is not None for sample in samples),
    }
    images = len(samples)
    told = [
        task if count == images else f"{task} in {count}" for task, count in counts.items() if count
    ]
    return f"{images} image{'s' if images != 1 else ''} with {', '.join(told)}"


def require_classes(samples: Iterable[Sample], classes: ClassMap, root: Path) -> None:
    """Raise UserError if a data set has labels that no class takes."""
    classes.require(categories_of(samples), str(root))


def categories_of(samples: Iterable[Sample]) -> set[str]:
    """Of all labelled boxes."""
    return {category for sample in samples for category in sample.categories}


def source_samples(source: DataSource) -> list[Sample]:
    """All samples of a source, labelled or not, sorted by stem.

    Raises LayoutError as `read_split`, and UserError for a pattern that fits no image.
    """
    problems: list[Problem] = []
    samples = read_split(source.root, source.split, problems)
    warn(problems)
    stems = set(chosen([sample.stem for sample in samples], source))
    return [sample for sample in samples if sample.stem in stems]


def chosen(stems: Sequence[str], source: DataSource) -> list[str]:
    """Those of the sorted stems of a split that a source takes.

    Raises UserError for a pattern that fits none, and if none is left.
    """

    def fitting(pattern: str) -> list[str]:
        found = [stem for stem in stems if fnmatchcase(stem, pattern)]
        if not found:
            raise UserError(f"{source.root} {source.split} has no image {pattern}")
        return found

    taken = set(stems)
    if source.only:
        taken = {stem for pattern in source.only for stem in fitting(pattern)}
    for pattern in source.without:
        taken.difference_update(fitting(pattern))
    for pattern, step in source.thin.items():
        repeated = fitting(pattern)
        taken.difference_update(set(repeated) - set(repeated[::step]))
    if not taken:
        raise UserError(f"{source.root} {source.split}: no image is left of what is chosen")
    return [stem for stem in stems if stem in taken]


def warn(problems: Iterable[Problem]) -> None:
    """Say on stderr what is wrong: one line for each kind, and each line once."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    for kind, found in kinds.items():
        times = f" ({len(found)} times)" if len(found) > 1 else ""
        _say(f"warning: {kind}{times}: {found[0]}")


@cache
def _say(line: str) -> None:
    print(line, file=sys.stderr)

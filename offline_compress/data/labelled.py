"""The samples of a split, with a warning of what of its labels cannot be read."""

import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from mtc_perception.datasets.layout import LayoutError, Sample, read_split
from mtc_perception.datasets.sample import Problem
from mtc_perception.util.errors import UserError
from offline_compress.recipe.parts import DataSource


def labelled_split(
    source: DataSource, purpose: str, classes: Sequence[str] | None = None
) -> list[Sample]:
    """All samples of a split, to `purpose`, e.g. `train on`.

    Raises LayoutError as `split_samples`, or if none of them is labelled, and UserError if their
    boxes are of something else than `classes`.
    """
    samples = split_samples(source.root, source.split)
    if not any(sample.labelled for sample in samples):
        raise LayoutError(
            f"split {source.split} of {source.root} has no labels to {purpose}: "
            f"`mtc-compress check-data {source.root}` tells what is there"
        )
    if classes is not None:
        require_classes(samples, classes, source.root)
    return samples


def require_classes(samples: Iterable[Sample], classes: Sequence[str], root: Path) -> None:
    """Raise UserError if the boxes of a data set are of something else than a network finds."""
    for sample in samples:
        if sample.boxes is not None and sample.category not in classes:
            raise UserError(
                f"the labels of {root} are of {sample.category}, the network's classes are "
                f"{', '.join(classes)}: take labels of those, or a recipe with classes: "
                f"[{sample.category}]"
            )


def split_samples(root: Path, split: str) -> list[Sample]:
    """All samples of a split. Raises LayoutError as `read_split`."""
    problems: list[Problem] = []
    samples = read_split(root, split, problems)
    warn(problems)
    return samples


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

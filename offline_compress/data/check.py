"""Decode a whole data set: what is in it, and everything that is broken."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtc_perception.core.tasks import TASKS
from mtc_perception.datasets.layout import (
    BrokenFile,
    Sample,
    find_layout,
    index_split,
    read_image,
    read_truth,
)
from mtc_perception.datasets.pixels import (
    draw_shapes,
    foreground,
    other_size,
    outside,
    read_mask_values,
    unexpected_values,
)
from mtc_perception.datasets.sample import HARMLESS, MaskShapes, MaskSource, Problem
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import NamedCount
from mtc_perception.util.read_ahead import map_ahead
from offline_compress.data.loader_workers import usable_cores


@dataclass(slots=True)
class SplitReport:
    """What one split holds; images that do not decode count in `images` only."""

    images: int = 0
    labelled: Counter[str] = field(default_factory=Counter)
    """Images per task."""
    boxes: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    """What is in the boxes, as the labels call it."""
    ignore_regions: int = 0
    cover: dict[str, float] = field(default_factory=dict)
    """Sum over the labelled images of the part of the image that is drivable, or lane."""
    sizes: Counter[str] = field(default_factory=Counter)
    """Images per width x height."""
    attributes: dict[str, Counter[str]] = field(default_factory=dict)

    def mean_cover(self, task: str) -> float | None:
        """Mean part of an image, 0 to 1, that `task` covers; None if it is not labelled."""
        count = self.labelled[task]
        return round(self.cover[task] / count, 5) if count else None

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "images": self.images,
            "labelled": {task: self.labelled[task] for task in TASKS},
            "boxes": self.boxes,
            "categories": dict(self.categories.most_common()),
            "ignore_regions": self.ignore_regions,
            "mean_cover": {task: self.mean_cover(task) for task in ("drivable", "lane")},
            "sizes": dict(self.sizes.most_common()),
            "attributes": {name: dict(c.most_common()) for name, c in self.attributes.items()},
        }


@dataclass(slots=True)
class DataReport:
    """What a data set holds, and all its problems in the order of its files."""

    root: Path
    layout: str
    splits: dict[str, SplitReport] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def broken(self) -> list[Problem]:
        """The problems that keep a file from being used as it should."""
        return [problem for problem in self.problems if problem.kind not in HARMLESS]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        broken = self.broken
        return {
            "root": str(self.root),
            "layout": self.layout,
            "ok": not broken,
            "splits": {name: split.to_json() for name, split in self.splits.items()},
            "problems": dict(Counter(problem.kind for problem in self.problems)),
            "first_broken": str(broken[0]) if broken else None,
        }


@dataclass(slots=True)
class _Checked:
    """One decoded sample."""

    sample: Sample
    size: tuple[int, int] | None = None
    boxes: int = 0
    ignore_regions: int = 0
    cover: dict[str, float] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def check_data(root: Path, split: str | None, count: NamedCount) -> DataReport:
    """Decode every file of one split, or of all, with a thread for each core.

    Raises LayoutError for a missing data set or split.
    """
    layout = find_layout(root)
    report = DataReport(root, layout.name)
    splits = [split] if split else layout.splits(root)
    if not splits:
        raise UserError(f"{root / layout.images} has no folder of a split, such as train/")
    for name in splits:
        samples, problems = index_split(root, name)
        report.problems += problems
        if samples and not any(sample.labelled for sample in samples) and not _is_test(name):
            reason = f"no image has a label, looked for in {layout.labels.format(split=name)}"
            folder = root / layout.images / name
            report.problems.append(Problem("split without labels", folder, reason))
        summary = report.splits[name] = SplitReport()
        for done, checked in enumerate(_decode_all(samples), start=1):
            _add(summary, checked)
            report.problems += checked.problems
            count(name, done, len(samples))
    return report


def _is_test(split: str) -> bool:
    """Whether a split is one that data sets publish without labels: test, test2017, ..."""
    return split.startswith("test")


def _decode_all(samples: list[Sample]) -> Iterable[_Checked]:
    threads = usable_cores()
    with ThreadPoolExecutor(threads) as pool:
        yield from map_ahead(pool, check_sample, samples, 8 * threads)


def check_sample(sample: Sample) -> _Checked:
    """Decode one sample; everything wrong with it is in `problems`."""
    checked = _Checked(sample)
    try:
        size = read_image(sample.image_path).shape[:2]
    except BrokenFile as error:
        checked.problems.append(error.problem)
        return checked
    checked.size = size
    for task, source in (("drivable", sample.drivable), ("lane", sample.lane)):
        if source is None:
            continue
        try:
            mask, problem = _read_mask(source, size)
        except BrokenFile as error:
            checked.problems.append(error.problem)
            continue
        checked.cover[task] = float(mask.mean())
        if problem:
            checked.problems.append(problem)
    boxes = read_truth(replace(sample, drivable=None, lane=None), size).boxes
    if boxes is not None and sample.ignore is not None:
        checked.ignore_regions = int(sample.ignore.sum())
        checked.boxes = len(boxes) - checked.ignore_regions
        if problem := other_size(sample.image_path, size, sample.stated_size):
            checked.problems.append(problem)
        elif reason := outside(boxes.reshape(-1, 2, 2), size):
            checked.problems.append(
                Problem("label outside the image", sample.image_path, f"a box {reason}")
            )
    return checked


def _read_mask(
    source: MaskSource, size: tuple[int, int]
) -> tuple[npt.NDArray[np.bool_], Problem | None]:
    """A mask, and what is odd about it although it can be read."""
    if isinstance(source, MaskShapes):
        reason = outside(source.points.reshape(-1, 1, 2), size)
        found = Problem("label outside the image", source.path, f"a line {reason}")
        return draw_shapes(source, size), found if reason else None
    values = read_mask_values(source, size)
    return foreground(values, source), unexpected_values(values, source)


def _add(summary: SplitReport, checked: _Checked) -> None:
    summary.images += 1
    if checked.size is None:
        return
    height, width = checked.size
    summary.sizes[f"{width}x{height}"] += 1
    if checked.sample.boxes is not None:
        summary.labelled["detection"] += 1
    for task, part in checked.cover.items():
        summary.labelled[task] += 1
        summary.cover[task] = summary.cover.get(task, 0.0) + part
    summary.boxes += checked.boxes
    summary.ignore_regions += checked.ignore_regions
    if checked.sample.ignore is not None:
        for category, ignored in zip(checked.sample.categories, checked.sample.ignore, strict=True):
            summary.categories[category] += not ignored
    for name, value in checked.sample.attributes.items():
        summary.attributes.setdefault(name, Counter())[value] += 1

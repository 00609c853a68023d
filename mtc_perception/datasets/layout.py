"""Data sets of every layout as lists of samples.

Which layout a folder has is seen from its sub-folders: the project's own (`project.py`),
BDD100K as released (`bdd100k.py`), or that of YOLOP, A-YOLOM or RMT-PPAD
(`image_mask.py`). What is missing is unlabelled, never negative.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mtc_perception.core.truth import GroundTruth
from mtc_perception.datasets import bdd100k, image_mask, project
from mtc_perception.datasets.pixels import read_image, read_mask, read_source
from mtc_perception.datasets.sample import (
    HARMLESS,
    BrokenFile,
    Labels,
    LayoutError,
    Problem,
    Sample,
)
from mtc_perception.datasets.split_files import IMAGE_SUFFIXES, image_files

__all__ = [
    "IMAGE_SUFFIXES",
    "BrokenFile",
    "LayoutError",
    "Sample",
    "find_layout",
    "index_split",
    "label_splits",
    "read_image",
    "read_labels",
    "read_mask",
    "read_source",
    "read_split",
    "read_truth",
    "split_of",
]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a layout keeps its images, and how its labels are read."""

    name: str
    images: str
    """Folder of the splits' image folders."""
    marks: tuple[str, ...]
    """Folders of which any tells this layout; none of them: the project's own."""
    read_labels: Callable[[Path, str], Labels]
    labels: str
    """Where the labels of `{split}` are looked for, to be named in messages."""

    def splits(self, root: Path) -> list[str]:
        """Names of the splits of a data set, sorted."""
        images = root / self.images
        if not images.is_dir():
            return []
        return sorted(path.name for path in images.iterdir() if path.is_dir())


PROJECT = Layout(
    "project",
    "images",
    (),
    project.read_labels,
    "det/{split}.json, drivable/{split}/, lane/{split}/",
)
LAYOUTS = (
    Layout(
        "BDD100K",
        "images/100k",
        ("images/100k",),
        bdd100k.read_labels,
        "labels/det_20/det_{split}.json, labels/drivable/, labels/lane/, labels/100k/{split}/, "
        "labels/bdd100k_labels_images_{split}.json",
    ),
    Layout(
        "YOLOP",
        "images",
        ("det_annotations", "da_seg_annotations", "ll_seg_annotations"),
        image_mask.read_yolop,
        "det_annotations/{split}/, da_seg_annotations/{split}/, ll_seg_annotations/{split}/",
    ),
    Layout(
        "A-YOLOM",
        "images",
        ("detection-object", "seg-drivable-10", "seg-lane-11"),
        image_mask.read_a_yolom,
        "detection-object/labels/{split}/, seg-drivable-10/labels/{split}/, "
        "seg-lane-11/labels/{split}/",
    ),
    Layout(
        "RMT-PPAD",
        "images",
        ("mask/drivable", "mask/lane"),
        image_mask.read_rmt_ppad,
        "labels/{split}/, mask/drivable/{split}/, mask/lane/{split}/",
    ),
)


def find_layout(root: Path) -> Layout:
    """The layout of a data set. Raises LayoutError if it is none, or of several layouts at once."""
    if not root.is_dir():
        raise LayoutError(f"data set {root} does not exist")
    if not (root / "images").is_dir():
        raise LayoutError(f"{root} is no data set: it has no folder images/")
    found = {
        layout.name: [mark for mark in layout.marks if (root / mark).is_dir()] for layout in LAYOUTS
    }
    names = [name for name, marks in found.items() if marks]
    if len(names) > 1:
        which = " and ".join(f"{name} ({', '.join(found[name])})" for name in names)
        raise LayoutError(f"{root} has folders of several layouts, {which}: keep those of one")
    return next((layout for layout in LAYOUTS if layout.name in names), PROJECT)


def split_of(folder: Path) -> tuple[Path, str] | None:
    """Data set root and split of a split's image folder; None if it is no such folder."""
    folder = folder.resolve()
    for layout in (*LAYOUTS, PROJECT):
        parts = Path(layout.images).parts
        if folder.parts[-1 - len(parts) : -1] == parts:
            return folder.parents[len(parts)], folder.name
    return None


def index_split(root: Path, split: str) -> tuple[list[Sample], list[Problem]]:
    """Samples of one split sorted by stem, and what is wrong with its files; opens no image.

    Raises LayoutError for a missing data set or split, and one without any image.
    """
    layout = find_layout(root)
    folder = root / layout.images / split
    if not folder.is_dir():
        known = ", ".join(layout.splits(root)) or "none"
        raise LayoutError(f"{root} has no split '{split}'; it has: {known}")
    problems: list[Problem] = []
    images = image_files(folder, problems)
    if not images and not problems:
        raise LayoutError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    labels = layout.read_labels(root, split)
    problems += labels.problems
    samples = [_sample(stem, path, labels) for stem, path in images.items()]
    present = images.keys() | {problem.path.stem for problem in problems}
    for masks in (labels.drivable, labels.lane):
        problems += [
            Problem("label without image", masks[stem].path, f"no image {folder / stem}.*")
            for stem in sorted(masks.keys() - present)
        ]
    problems += [
        Problem("label without image", labels.origin[stem], f"no image {folder / stem}.*")
        for stem in sorted(labels.boxes.keys() - present)
    ]
    problems += [
        Problem("image without label", sample.image_path, "labelled for no task")
        for sample in samples
        if not sample.labelled
    ]
    return samples, problems


def label_splits(root: Path) -> list[str]:
    """Names of the splits that have labels or images; the images need not be there.

    Raises LayoutError if `root` is no data set.
    """
    if (root / "images").is_dir():
        return find_layout(root).splits(root)
    if not root.is_dir():
        raise LayoutError(f"data set {root} does not exist")
    masks = {path.name for task in ("drivable", "lane") for path in _folders(root / task)}
    return sorted(masks | {path.stem for path in (root / "det").glob("*.json")})


def read_labels(root: Path, split: str) -> dict[str, Sample]:
    """The labelled samples of a split by stem, sorted; the images need not be there.

    Raises LayoutError as `read_split` does.
    """
    layout = find_layout(root) if (root / "images").is_dir() else PROJECT
    labels = layout.read_labels(root, split)
    _refuse_broken(labels.problems)
    stems = labels.boxes.keys() | labels.drivable.keys() | labels.lane.keys()
    folder = root / layout.images / split
    return {stem: _sample(stem, folder / stem, labels) for stem in sorted(stems)}


def _folders(path: Path) -> list[Path]:
    return [inner for inner in path.iterdir() if inner.is_dir()] if path.is_dir() else []


def _sample(stem: str, path: Path, labels: Labels) -> Sample:
    found = labels.boxes.get(stem)
    return Sample(
        stem=stem,
        image_path=path,
        drivable=labels.drivable.get(stem),
        lane=labels.lane.get(stem),
        boxes=found.boxes if found else None,
        ignore=found.ignore if found else None,
        attributes=labels.attributes.get(stem, {}),
        boxes_are_fractions=labels.boxes_are_fractions,
    )


def read_split(root: Path | str, split: str) -> list[Sample]:
    """Index one split of a data set, sorted by stem; opens no image.

    Raises LayoutError for a missing data set or split, and names the first broken file and the
    number of further ones.
    """
    samples, problems = index_split(Path(root), split)
    _refuse_broken(problems)
    return samples


def _refuse_broken(problems: list[Problem]) -> None:
    broken = [problem for problem in problems if problem.kind not in HARMLESS]
    if broken:
        more = f" (and {len(broken) - 1} more broken)" if len(broken) > 1 else ""
        raise LayoutError(f"{broken[0]}{more}")


def read_truth(sample: Sample, size: tuple[int, int]) -> GroundTruth:
    """Labels of a sample whose image is of `size` (height, width). Raises LayoutError."""
    boxes = sample.boxes
    if boxes is not None and sample.boxes_are_fractions:
        height, width = size
        boxes = boxes * (width, height, width, height)
    return GroundTruth(
        boxes=None if boxes is None else boxes.astype("float32", copy=False),
        ignore=sample.ignore,
        drivable=read_mask(sample.drivable, size) if sample.drivable else None,
        lane=read_mask(sample.lane, size) if sample.lane else None,
    )

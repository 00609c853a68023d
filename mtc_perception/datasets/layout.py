"""Data sets of every layout as lists of samples.

Which layout a folder has is seen from its sub-folders: the project's own (`project.py`),
BDD100K as released (`bdd100k.py`), or that of YOLOP, A-YOLOM or RMT-PPAD
(`image_mask.py`). What is missing is unlabelled, never negative.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtc_perception.core.images import compressed_size
from mtc_perception.core.truth import GroundTruth
from mtc_perception.datasets import bdd100k, image_mask, project
from mtc_perception.datasets.pixels import read_image, read_mask, read_source
from mtc_perception.datasets.sample import (
    HARMLESS,
    REFUSED,
    BrokenFile,
    Labels,
    LayoutError,
    MaskFile,
    MaskSource,
    Problem,
    Sample,
)
from mtc_perception.datasets.split_files import (
    IMAGE_SUFFIXES,
    image_files,
    image_paths,
    spelling,
    unread_images,
    visible,
)
from mtc_perception.util.errors import ImageError
from mtc_perception.util.files import read_regular

__all__ = [
    "IMAGE_SUFFIXES",
    "BrokenFile",
    "LayoutError",
    "Sample",
    "find_layout",
    "image_paths",
    "index_split",
    "known_truth",
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
        return [path.name for path in visible(images) if path.is_dir()]

    def split_folder(self, root: Path, split: str) -> Path:
        """Where the images of a split are. Raises LayoutError if there is no such split."""
        folder = root / self.images / split
        if not folder.is_dir():
            known = ", ".join(self.splits(root)) or "none"
            raise LayoutError(f"{root} has no split '{split}'; it has: {known}")
        return folder


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
    samples, _, problems = _indexed(root, split)
    return samples, problems


def _indexed(root: Path, split: str) -> tuple[list[Sample], Labels, list[Problem]]:
    layout = find_layout(root)
    folder = layout.split_folder(root, split)
    problems: list[Problem] = []
    images = image_files(folder, problems)
    unread = list(unread_images(folder))
    if not images:
        first = f": {unread[0]}" if unread else ""
        raise LayoutError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}){first}")
    problems += unread
    labels = layout.read_labels(root, split)
    # A file that is no label, as classes.txt, is one without an image.
    problems += [
        _without_image(one.path, one.stem, folder)
        if one.stem is not None and one.stem not in images and one.kind not in HARMLESS
        else one
        for one in labels.problems
    ]
    samples = [_sample(stem, path, labels) for stem, path in images.items()]
    sources = (
        labels.origin,
        *({stem: mask.path for stem, mask in m.items()} for m in (labels.drivable, labels.lane)),
    )
    for paths in sources:
        lost = sorted(paths.keys() - images.keys())
        bare = {spelling(stem): stem for stem in images.keys() - paths.keys()} if lost else {}
        problems += [
            _without_image(paths[stem], stem, folder, bare.get(spelling(stem))) for stem in lost
        ]
        if lost and len(lost) == len(paths):
            reason = f"labels fit no image of {folder}: the first is that of {lost[0]}"
            problems.append(Problem("labels fit no image", paths[lost[0]], reason))
    problems += [
        Problem("image without label", sample.image_path, "labelled for no task")
        for sample in samples
        if not sample.labelled
    ]
    return samples, labels, problems


def _without_image(path: Path, stem: str, folder: Path, meant: str | None = None) -> Problem:
    """`meant` is the stem of the image that it may be of, by another spelling."""
    if meant is not None:
        reason = f"a label of {stem}, and there is an image {meant}: give them one name"
        return Problem("label of another spelling", path, reason, meant)
    return Problem("label without image", path, f"no image {folder / stem}.*")


def label_splits(root: Path) -> list[str]:
    """Names of the splits that have labels or images; the images need not be there.

    Raises LayoutError if `root` is no data set.
    """
    if (root / "images").is_dir():
        return find_layout(root).splits(root)
    if not root.is_dir():
        raise LayoutError(f"data set {root} does not exist")
    masks = {path.name for task in ("drivable", "lane") for path in _visible(root / task)}
    boxes = {path.stem for path in _visible(root / "det") if path.suffix == ".json"}
    return sorted(masks | boxes)


def read_labels(root: Path, split: str, problems: list[Problem]) -> dict[str, Sample]:
    """The labelled samples of a split by stem, sorted; the images need not be there.

    Appends problems, and raises LayoutError, as `read_split` does.
    """
    layout = find_layout(root) if (root / "images").is_dir() else PROJECT
    labels = layout.read_labels(root, split)
    _sort_out(labels.problems, labels, problems)
    stems = labels.boxes.keys() | labels.drivable.keys() | labels.lane.keys()
    folder = root / layout.images / split
    return {stem: _sample(stem, folder / stem, labels) for stem in sorted(stems)}


def _visible(path: Path) -> list[Path]:
    return list(visible(path)) if path.is_dir() else []


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
        categories=found.categories if found else (),
        stated_size=labels.sizes.get(stem),
    )


def read_split(root: Path | str, split: str, problems: list[Problem] | None = None) -> list[Sample]:
    """Index one split of a data set, sorted by stem; opens no image.

    What cannot be read of its labels is unlabelled, and appended to `problems`. Raises LayoutError
    for a missing data set or split, for labels of which nobody can tell whose they are, and where
    nothing of a file or folder of labels can be read.
    """
    samples, labels, found = _indexed(Path(root), split)
    _sort_out(found, labels, [] if problems is None else problems)
    return samples


def _sort_out(found: list[Problem], labels: Labels, problems: list[Problem]) -> None:
    """Append to `problems` what is worth a warning. Raises LayoutError as `read_split`."""
    sources = {
        *labels.origin.values(),
        *(mask.path for masks in (labels.drivable, labels.lane) for mask in masks.values()),
    }
    folders = {path.parent for path in sources}

    def nothing_left(one: Problem) -> bool:
        # Where each image has a file of its own, the others are in the same folder.
        label = one.stem is not None or one.kind == "unreadable labels"
        return label and one.path not in sources and one.path.parent not in folders

    broken = [one for one in found if one.kind not in HARMLESS]
    refused = [one for one in broken if one.kind in REFUSED or nothing_left(one)]
    if refused:
        more = f" (and {len(refused) - 1} more like it)" if len(refused) > 1 else ""
        raise LayoutError(f"{refused[0]}{more}")
    problems += broken


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
        categories=None if boxes is None else sample.categories,
    )


def known_truth(
    sample: Sample, size: tuple[int, int] | None
) -> tuple[GroundTruth | None, list[Problem]]:
    """What can be read of a sample's labels, and what is wrong with the rest, which is unlabelled.

    `size` is the image's height and width; None of an image that cannot be decoded, which is as
    large as its masks. The labels are None where there are none.
    """
    if size is None:
        sample, size = _without_size(sample)
    problems: list[Problem] = []

    def mask(source: MaskSource | None) -> npt.NDArray[np.bool_] | None:
        try:
            return None if source is None else read_mask(source, size)
        except BrokenFile as error:
            problems.append(error.problem)
            return None

    truth = replace(
        read_truth(replace(sample, drivable=None, lane=None), size),
        drivable=mask(sample.drivable),
        lane=mask(sample.lane),
    )
    unlabelled = truth.boxes is None and truth.drivable is None and truth.lane is None
    return None if unlabelled else truth, problems


def _without_size(sample: Sample) -> tuple[Sample, tuple[int, int]]:
    """What can be told of the labels of an image whose size nobody knows, and a size for that."""
    masks = [one.path for one in (sample.drivable, sample.lane) if isinstance(one, MaskFile)]
    if not masks:
        return replace(sample, drivable=None, lane=None), (1, 1)  # boxes are missed at any size
    try:
        return sample, compressed_size(read_regular(masks[0]))
    except (OSError, ImageError):
        return sample, (1, 1)  # whoever reads the mask says what is wrong with it

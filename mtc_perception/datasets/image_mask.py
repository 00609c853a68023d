"""The layouts of YOLOP, A-YOLOM and RMT-PPAD: a folder of images, one of masks for each task.

In all of them a mask's foreground is every value but 0. YOLOP stores one JSON file per image (the
2018 labels of BDD100K), the other two one text file per image: a line per box, `class cx cy w h`
in fractions of the image.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtc_perception.core.class_map import VEHICLE
from mtc_perception.datasets.bdd100k import frames_of_files
from mtc_perception.datasets.sample import NONZERO, Boxes, Labels, Problem
from mtc_perception.datasets.split_files import label_files, mask_files
from mtc_perception.util.files import read_regular

A_YOLOM_CLASSES = {2: "car", 3: "bus", 4: "truck", 9: "train"}
"""Those that A-YOLOM merges into vehicles (its README); others are `class 0`, `class 1`, ..."""
RMT_PPAD_CLASSES = {0: VEHICLE}
"""The label download of RMT-PPAD has one."""
_MOST_CLASSES = 10_000
_ROUNDED = 1e-4
"""How far a fraction of the image may reach out of 0..1: the digits of labels are few."""


def read_yolop(root: Path, split: str) -> Labels:
    """`det_annotations/`, `da_seg_annotations/`, `ll_seg_annotations/`; opens no mask."""
    labels = _masks(root / "da_seg_annotations", root / "ll_seg_annotations", split)
    files = label_files(root / "det_annotations" / split, ".json", labels.problems)
    for stem, (path, frame) in frames_of_files(files, labels.problems).items():
        labels.boxes[stem] = frame.boxes
        labels.attributes[stem] = frame.attributes
        labels.origin[stem] = path
    return labels


def read_a_yolom(root: Path, split: str) -> Labels:
    """`detection-object/labels/`, `seg-drivable-10/labels/`, `seg-lane-11/labels/`."""
    labels = _masks(root / "seg-drivable-10" / "labels", root / "seg-lane-11" / "labels", split)
    folder = root / "detection-object" / "labels" / split
    _text_boxes(folder, A_YOLOM_CLASSES, labels, others_allowed=True)
    return labels


def read_rmt_ppad(root: Path, split: str) -> Labels:
    """`labels/`, `mask/drivable/`, `mask/lane/`; opens no mask."""
    labels = _masks(root / "mask" / "drivable", root / "mask" / "lane", split)
    _text_boxes(root / "labels" / split, RMT_PPAD_CLASSES, labels, others_allowed=False)
    return labels


def _masks(drivable: Path, lane: Path, split: str) -> Labels:
    labels = Labels()
    labels.drivable = mask_files(drivable / split, NONZERO, labels.problems)
    labels.lane = mask_files(lane / split, NONZERO, labels.problems)
    return labels


def _text_boxes(
    folder: Path, names: Mapping[int, str], labels: Labels, others_allowed: bool
) -> None:
    labels.boxes_are_fractions = True
    for stem, path in label_files(folder, ".txt", labels.problems).items():
        try:
            # Editors on Windows begin a file with a mark of its encoding.
            lines = read_regular(path).decode("utf-8-sig").splitlines()
            rows = _rows(lines, None if others_allowed else frozenset(names))
        except (OSError, ValueError) as error:
            labels.problems.append(Problem("unreadable labels", path, str(error), stem))
            continue
        centre, size = rows[:, 1:3], rows[:, 3:]
        usable = (size > 0).all(1)
        problem = Problem("unusable box", path, "a box without a size", stem)
        labels.problems += [problem] * int((~usable).sum())
        corners = np.concatenate((centre - size / 2, centre + size / 2), 1)
        kinds = rows[usable, 0].astype(int).tolist()
        categories = [names.get(kind, f"class {kind}") for kind in kinds]
        labels.boxes[stem] = Boxes(
            corners[usable].astype(np.float32),
            np.zeros(len(kinds), dtype=np.bool_),
            tuple(map(sys.intern, categories)),
        )
        labels.origin[stem] = path


def _rows(lines: Iterable[str], classes: frozenset[int] | None) -> npt.NDArray[np.float64]:
    """`class cx cy w h` of each line that is not blank, [n, 5]; `classes` are allowed, None: any.

    Raises ValueError naming the first line that is something else.
    """
    rows = []
    for number, line in enumerate(lines, start=1):
        if words := line.split():
            try:
                rows.append(_row(words, classes))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return np.array(rows, np.float64).reshape(-1, 5)


def _row(words: list[str], classes: frozenset[int] | None) -> list[float]:
    if len(words) != 5:
        also = ""
        if len(words) == 6:
            also = ", as of predictions with a confidence"
        elif len(words) > 6 and len(words) % 2:
            also = ", as of polygons"
        raise ValueError(f"{len(words)} columns{also}, where class cx cy w h are expected")
    kind, *box = map(float, words)
    if not kind.is_integer() or not 0 <= kind < _MOST_CLASSES:
        raise ValueError(f"class {words[0]} is no whole number below {_MOST_CLASSES}")
    if classes is not None and kind not in classes:
        raise ValueError(f"class {kind:g}, but only 0 (vehicle) is expected")
    for word, value in zip(words[1:], box, strict=True):
        if not -_ROUNDED <= value <= 1 + _ROUNDED:  # nor is what is no number
            raise ValueError(f"{word} is no fraction of the image, 0 to 1")
    return [kind, *box]

"""The layouts of YOLOP, A-YOLOM and RMT-PPAD: a folder of images, one of masks for each task.

In all of them a mask's foreground is every value but 0. YOLOP stores one JSON file per image (the
2018 labels of BDD100K), the other two one text file per image: a line per box, `class cx cy w h`
in fractions of the image.
"""

from pathlib import Path

import numpy as np

from mtc_perception.datasets.bdd100k import frames_of_files
from mtc_perception.datasets.sample import NONZERO, Boxes, Labels, Problem
from mtc_perception.datasets.split_files import label_files, mask_files, unreadable

A_YOLOM_VEHICLES = frozenset((2, 3, 4, 9))
"""Class numbers of car, bus, truck and train, which A-YOLOM merges (its README)."""
RMT_PPAD_VEHICLES = frozenset((0,))
"""The label download of RMT-PPAD has one class, 0, vehicle."""


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
    _text_boxes(folder, A_YOLOM_VEHICLES, labels, others_allowed=True)
    return labels


def read_rmt_ppad(root: Path, split: str) -> Labels:
    """`labels/`, `mask/drivable/`, `mask/lane/`; opens no mask."""
    labels = _masks(root / "mask" / "drivable", root / "mask" / "lane", split)
    _text_boxes(root / "labels" / split, RMT_PPAD_VEHICLES, labels, others_allowed=False)
    return labels


def _masks(drivable: Path, lane: Path, split: str) -> Labels:
    labels = Labels()
    labels.drivable = mask_files(drivable / split, NONZERO, labels.problems)
    labels.lane = mask_files(lane / split, NONZERO, labels.problems)
    return labels


def _text_boxes(
    folder: Path, vehicles: frozenset[int], labels: Labels, others_allowed: bool
) -> None:
    labels.boxes_are_fractions = True
    for stem, path in label_files(folder, ".txt", labels.problems).items():
        try:
            rows = np.array(
                [line.split() for line in path.read_text().splitlines() if line.strip()],
                dtype=np.float64,
            ).reshape(-1, 5)
        except (OSError, ValueError) as error:
            labels.problems.append(unreadable(path, "not lines of class cx cy w h", error))
            continue
        vehicle = np.isin(rows[:, 0], list(vehicles))
        if not vehicle.all() and not others_allowed:
            reason = f"class {rows[~vehicle][0, 0]:g}, but only 0 (vehicle) is expected"
            labels.problems.append(Problem("unreadable labels", path, reason))
            continue
        centre, size = rows[vehicle, 1:3], rows[vehicle, 3:]
        if not np.isfinite(rows).all():
            reason = "a box with a coordinate that is no number"
            labels.problems.append(Problem("unreadable labels", path, reason))
            continue
        usable = (size > 0).all(1)
        problem = Problem("unusable box", path, "a box without a size")
        labels.problems += [problem] * int((~usable).sum())
        corners = np.concatenate((centre - size / 2, centre + size / 2), 1)
        boxes = corners[usable].astype(np.float32)
        labels.boxes[stem] = Boxes(boxes, np.zeros(len(boxes), dtype=np.bool_))
        labels.origin[stem] = path

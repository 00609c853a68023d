"""BDD100K as released: images/100k/<split>/ and labels/, whichever parts were downloaded.

For each task the first of these that is there is read:

- vehicles: det_20/det_<split>.json, the labels of 2018
- drivable: drivable/masks/<split>/, drivable/polygons/drivable_<split>.json, the labels of 2018,
  drivable/colormaps/<split>/
- lane: lane/polygons/lane_<split>.json, lane/masks/<split>/, the labels of 2018,
  lane/colormaps/<split>/

The labels of 2018 are one bdd100k_labels_images_<split>.json, or one 100k/<split>/<stem>.json per
image. An image that a JSON file lists is labelled by it, with nothing if need be.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mtc_perception.datasets.sample import (
    BDD_DRIVABLE,
    BDD_LANE,
    COLOURS,
    Labels,
    LayoutError,
    MaskShapes,
    MaskSource,
    Problem,
)
from mtc_perception.datasets.scalabel import FrameLabels, Points, frames_of, parse_frame
from mtc_perception.datasets.split_files import (
    label_files,
    mask_files,
    read_json,
    stem_of,
    unreadable,
)

LANE_WIDTH_PX = 8
"""Width lanes are drawn with in an image of 1280x720: the training width of YOLOP and RMT-PPAD."""

Frames = dict[str, tuple[Path, FrameLabels]]


def read_labels(root: Path, split: str) -> Labels:
    """Labels of one split; opens no mask."""
    folder = root / "labels"
    labels = Labels()
    problems = labels.problems
    legacy: Frames | None = None

    def old() -> Frames:
        nonlocal legacy
        if legacy is None:
            legacy = _legacy(folder, split, problems)
        return legacy

    found = _frames_file(folder / "det_20" / f"det_{split}.json", problems) or old()
    for stem, (path, frame) in found.items():
        labels.boxes[stem] = frame.boxes
        labels.attributes[stem] = frame.attributes
        labels.origin[stem] = path

    drivable, lane = folder / "drivable", folder / "lane"
    labels.drivable = _first(
        lambda: mask_files(drivable / "masks" / split, BDD_DRIVABLE, problems),
        lambda: _areas(_frames_file(drivable / "polygons" / f"drivable_{split}.json", problems)),
        lambda: _areas(old()),
        lambda: mask_files(drivable / "colormaps" / split, COLOURS, problems),
    )
    labels.lane = _first(
        lambda: _lines(_frames_file(lane / "polygons" / f"lane_{split}.json", problems)),
        lambda: mask_files(lane / "masks" / split, BDD_LANE, problems),
        lambda: _lines(old()),
        lambda: mask_files(lane / "colormaps" / split, COLOURS, problems),
    )
    return labels


def frames_of_files(files: dict[str, Path], problems: list[Problem]) -> Frames:
    """Frames from one JSON file per image, by stem."""
    frames: Frames = {}
    for stem, path in files.items():
        entry = read_json(path, problems, stem)
        frame = None if entry is None else _parsed(stem, entry, path, problems)
        if frame is not None:
            frames[stem] = path, frame
    return frames


def _legacy(folder: Path, split: str, problems: list[Problem]) -> Frames:
    combined = _frames_file(folder / f"bdd100k_labels_images_{split}.json", problems)
    if combined:
        return combined
    return frames_of_files(label_files(folder / "100k" / split, ".json", problems), problems)


def _frames_file(path: Path, problems: list[Problem]) -> Frames:
    """Frames of one Scalabel file by stem; none if there is no such file."""
    if not path.exists():
        return {}
    content = read_json(path, problems)
    if content is None:
        return {}
    try:
        entries = frames_of(content)
    except LayoutError as error:
        problems.append(unreadable(path, "not a Scalabel file", error))
        return {}
    frames: Frames = {}
    names: dict[str, str] = {}
    for number, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            reason = f"not a Scalabel file: frame {number} has no name"
            problems.append(Problem("unreadable labels", path, reason))
            continue
        stem = stem_of(name)
        if stem in names:
            reason = f"frames {names[stem]} and {name} are both labels of image {stem}"
            problems.append(Problem("duplicate name", path, reason))
            continue
        names[stem] = name
        frame = _parsed(stem, entry, path, problems)
        if frame is not None:
            frames[stem] = path, frame
    return frames


def _parsed(stem: str, entry: Any, path: Path, problems: list[Problem]) -> FrameLabels | None:
    """The labels of one image, or None after appending why they cannot be read."""
    try:
        frame = parse_frame(entry)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        problems.append(unreadable(path, f"broken labels of {stem}", error, stem))
        return None
    problems += [Problem("unusable box", path, f"{stem}: {box}", stem) for box in frame.unusable]
    return frame


def _first(*readers: Callable[[], dict[str, MaskSource]]) -> dict[str, MaskSource]:
    for read in readers:
        if found := read():
            return found
    return {}


def _areas(frames: Frames) -> dict[str, MaskSource]:
    return {stem: _shapes(path, frame.areas, None) for stem, (path, frame) in frames.items()}


def _lines(frames: Frames) -> dict[str, MaskSource]:
    return {
        stem: _shapes(path, frame.lanes, LANE_WIDTH_PX) for stem, (path, frame) in frames.items()
    }


def _shapes(path: Path, shapes: list[Points], width_px: int | None) -> MaskShapes:
    points = np.concatenate(shapes) if shapes else np.zeros((0, 2), np.float32)
    ends = np.cumsum([len(shape) for shape in shapes], dtype=np.int32)
    return MaskShapes(path, points, ends, width_px)

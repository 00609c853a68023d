"""YOLO text: a YAML file that names classes and splits, `images/` and `labels/` beside each other.

A line of a label file is `class cx cy w h`, or a class and a polygon, in fractions of the image. An
image without a file has no object. Where the YAML file says `kpt_shape`, key points follow a box.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mtc_perception.datasets.layout import LayoutError
from mtc_perception.datasets.sample import BrokenFile, Problem
from mtc_perception.datasets.split_files import images_below, label_files, spelling, stem_of
from mtc_perception.util.files import read_regular
from offline_compress.convert.frames import Box, Frame, FrameLabels, refused

_SPLITS = ("train", "val", "test")


def frames(download: Path) -> list[Frame]:
    """Images of all splits that the YAML file names. Raises LayoutError."""
    config = _config(download)
    try:
        content = yaml.safe_load(read_regular(config))
        names = _names(content["names"])
        if "valid" in content:  # as some exports call it
            content.setdefault("val", content["valid"])
        splits = {split: content[split] for split in _SPLITS if content.get(split)}
        key_points = math.prod(shape) if (shape := content.get("kpt_shape")) else 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())
        raise LayoutError(
            f"{config} does not say names and train ({type(error).__name__}: {words})"
        ) from None
    found = []
    for split, given in splits.items():
        folders = [
            _folder(download, config, content.get("path"), str(place))
            for place in (given if isinstance(given, list) else [given])
        ]
        images = [image for folder in folders for image in images_below(folder)]
        labels, misspelt, others = _label_files(images)
        if images and not labels:
            missing = f"{_label_file(images[0])} does not exist"
            why = next((str(one) for one in misspelt.values()), missing)
            raise LayoutError(f"no image of {folders[0]} has a label: {why}")
        for image in images:
            # What is of no image is told with the first one.
            odd, others = others, ()
            read = partial(_labels, labels.get(image), names, key_points, odd)
            if problem := misspelt.get(image):
                read = partial(refused, problem)
            found.append(Frame(split, stem_of(image.name), image, read))
    if not found:
        raise LayoutError(f"{config} names no folder with images: {', '.join(map(str, splits))}")
    return found


def _config(download: Path) -> Path:
    files = sorted((*download.glob("*.yaml"), *download.glob("*.yml")))
    if len(files) != 1:
        known = ", ".join(path.name for path in files) or "none"
        raise LayoutError(
            f"{download} must hold one YAML file, which names classes (`names`) and the folders of "
            f"images (`train`, `val`), and holds {known}"
        )
    return files[0]


def _names(given: Any) -> Mapping[int, str]:
    if not isinstance(given, dict | list):  # of a text, each letter would be a class
        raise ValueError(f"names is {given!r}, neither a list nor numbers with a name each")
    names: dict[int, str] = {}
    for number, name in given.items() if isinstance(given, dict) else enumerate(given):
        # To YAML, `no` is false.
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise ValueError(f"the name of class {number} is {name!r}: put it in quotes")
        if isinstance(number, float | bool) or int(number) in names:
            raise ValueError(f"names has {number!r}, where each class has a whole number once")
        names[int(number)] = str(name)
    return names


def _folder(download: Path, config: Path, path: Any, place: str) -> Path:
    """Where images lie: `path` is often that of the machine on which the file was written."""
    tried = [Path(str(path or ""), place), download / str(path or "") / place, download / place]
    # Exports name `../train/images` for what lies beside the file.
    tried.append(download / place.removeprefix("../"))
    if (folder := next((one for one in tried if one.is_dir()), None)) is None:
        raise LayoutError(
            f"{config}: {place} is no folder of images, nor is {tried[-1]}; of a list of images, "
            "give the folder"
        )
    return folder


def _label_file(image: Path) -> Path:
    """The last folder `images` of the path is `labels`."""
    parts = list(image.with_suffix(".txt").parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            return Path(*parts)
    raise LayoutError(f"{image} is in no folder images/, beside which labels/ would be")


def _label_files(
    images: Sequence[Path],
) -> tuple[dict[Path, Path], dict[Path, Problem], tuple[Problem, ...]]:
    """The label files of images; what is wrong where an image's has another spelling; and those
    of no image.

    Raises LayoutError where two files are an image's.
    """
    folders: dict[Path, dict[str, Path]] = {}
    labels: dict[Path, Path] = {}
    double: list[Problem] = []
    for image in images:
        folder = _label_file(image).parent
        if folder not in folders:
            folders[folder] = label_files(folder, ".txt", double)
        if own := folders[folder].get(stem_of(image.name)):
            labels[image] = own
    if double:
        raise LayoutError(str(double[0]))
    used = set(labels.values())
    rest = {label: stem for found in folders.values() for stem, label in found.items()}
    rest = {label: stem for label, stem in rest.items() if label not in used}
    bare = {
        (_label_file(image).parent, spelling(stem_of(image.name))): image
        for image in images
        if image not in labels
    }
    misspelt: dict[Path, Problem] = {}
    others: list[Problem] = []
    for label, stem in rest.items():
        if meant := bare.get((label.parent, spelling(stem))):
            reason = f"a label of {stem}, and there is an image {meant.name}: give them one name"
            misspelt[meant] = Problem("label of another spelling", label, reason)
        else:
            others.append(Problem("label without image", label, f"no image {stem}.*"))
    return labels, misspelt, tuple(others)


def _labels(
    path: Path | None,
    names: Mapping[int, str],
    key_points: int,
    odd: tuple[Problem, ...],
    size: tuple[int, int],
) -> FrameLabels:
    if path is None:
        return FrameLabels(boxes=(), problems=odd)
    height, width = size
    boxes = []
    try:
        lines = read_regular(path).decode("utf-8-sig").splitlines()
        for number, line in enumerate(lines, start=1):
            if words := line.split():
                name, (x1, y1, x2, y2) = _row(number, words, names, key_points)
                boxes.append(Box((x1 * width, y1 * height, x2 * width, y2 * height), name))
    except (OSError, ValueError) as error:
        raise BrokenFile(Problem("unreadable labels", path, str(error))) from None
    return FrameLabels(boxes=tuple(boxes), problems=odd)


def _row(
    number: int, words: list[str], names: Mapping[int, str], key_points: int
) -> tuple[str, tuple[float, float, float, float]]:
    """Name and corners, in fractions of the image, of one line. Raises ValueError."""
    try:
        kind, *values = map(float, words)
    except ValueError:
        raise ValueError(f"line {number} is not made of numbers") from None
    if kind not in names:
        raise ValueError(f"line {number} is of class {words[0]}, which has no name")
    if key_points:
        if len(values) != 4 + key_points:
            raise ValueError(f"line {number} has {len(words)} columns, kpt_shape {5 + key_points}")
        del values[4:]
    if not all(-0.01 <= value <= 1.01 for value in values):  # nor is what is no number
        raise ValueError(f"line {number} has no fractions of the image")
    if len(values) == 4:
        x, y, w, h = values
        return names[int(kind)], (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"line {number} has {len(words)} columns, neither a box nor a polygon")
    points = np.array(values).reshape(-1, 2)
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    return names[int(kind)], (x1, y1, x2, y2)

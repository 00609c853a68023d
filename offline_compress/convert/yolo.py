"""YOLO text: a YAML file that names classes and splits, `images/` and `labels/` beside each other.

A line of a label file is `class cx cy w h`, or a class and a polygon, in fractions of the image. An
image without a file has no object.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mtc_perception.datasets.layout import LayoutError
from mtc_perception.datasets.sample import BrokenFile, Problem
from mtc_perception.datasets.split_files import images_below
from mtc_perception.util.files import read_regular
from offline_compress.convert.frames import Box, Frame, FrameLabels

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
        labels = list(map(_label_file, images))
        if images and not any(label.exists() for label in labels):
            raise LayoutError(f"no image of {folders[0]} has a label: {labels[0]} does not exist")
        found += [
            Frame(split, image.stem, image, partial(_labels, label, names))
            for image, label in zip(images, labels, strict=True)
        ]
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
    pairs = given.items() if isinstance(given, dict) else enumerate(given)
    return {int(number): str(name) for number, name in pairs}


def _folder(download: Path, config: Path, path: Any, place: str) -> Path:
    """Where images lie: `path` is often that of the machine on which the file was written."""
    tried = [Path(str(path or ""), place), download / str(path or "") / place, download / place]
    # Exports name `../train/images` for what lies beside the file.
    tried.append(download / place.removeprefix("../"))
    if (folder := next((one for one in tried if one.is_dir()), None)) is None:
        raise LayoutError(f"{config}: {place} is no folder of images, nor is {tried[-1]}")
    return folder


def _label_file(image: Path) -> Path:
    """The last folder `images` of the path is `labels`."""
    parts = list(image.with_suffix(".txt").parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            return Path(*parts)
    raise LayoutError(f"{image} is in no folder images/, beside which labels/ would be")


def _labels(path: Path, names: Mapping[int, str], size: tuple[int, int]) -> FrameLabels:
    height, width = size
    boxes = []
    try:
        lines = read_regular(path).decode("utf-8-sig").splitlines() if path.exists() else []
        for number, line in enumerate(lines, start=1):
            if words := line.split():
                name, (x1, y1, x2, y2) = _row(number, words, names)
                boxes.append(Box((x1 * width, y1 * height, x2 * width, y2 * height), name))
    except (OSError, ValueError) as error:
        raise BrokenFile(Problem("unreadable labels", path, str(error))) from None
    return FrameLabels(boxes=tuple(boxes))


def _row(
    number: int, words: list[str], names: Mapping[int, str]
) -> tuple[str, tuple[float, float, float, float]]:
    """Name and corners, in fractions of the image, of one line. Raises ValueError."""
    try:
        kind, *values = map(float, words)
    except ValueError:
        raise ValueError(f"line {number} is not made of numbers") from None
    if kind not in names:
        raise ValueError(f"line {number} is of class {words[0]}, which has no name")
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

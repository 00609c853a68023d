"""Mapillary Vistas 1.2 and 2.0: `training/` and `validation/`, and a config that names classes."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from mtc_perception.datasets.layout import LayoutError
from mtc_perception.util.files import read_regular
from offline_compress.convert.frames import Box, Frame, FrameLabels
from offline_compress.convert.label_images import bounds, read_ids

_SPLITS = {"training": "train", "validation": "val"}
_VERSIONS = ("v2.0", "v1.2")
_ROADS = (
    *("construction--flat--road", "construction--flat--service-lane"),
    *("construction--flat--crosswalk-plain", "object--manhole", "object--pothole"),
)
_MARKINGS = "marking"
"""What the names of all paint begin with."""
_OBJECTS = ("object--vehicle--", "human--")


def frames(download: Path) -> list[Frame]:
    """Images of `training` and `validation`, with the newest labels. Raises LayoutError."""
    version, names = _classes(download)
    found = []
    for folder, split in _SPLITS.items():
        labels = download / folder / version / "instances"
        if not labels.is_dir():
            labels = download / folder / "instances"  # as 1.2 was published first
        for image in sorted((download / folder / "images").glob("*.jpg")):
            read = partial(_labels, labels / f"{image.stem}.png", names)
            found.append(Frame(split, image.stem, image, read))
    if not found:
        raise LayoutError(f"{download} holds no training/images/*.jpg: unpack the data set there")
    return found


def _classes(download: Path) -> tuple[str, Mapping[int, str]]:
    """The newest version that is there, and the names of its classes by number."""
    configs = {version: download / f"config_{version}.json" for version in _VERSIONS}
    configs |= {"": download / "config.json"}
    for version, config in configs.items():
        try:
            content = json.loads(read_regular(config))
            return version, {number: one["name"] for number, one in enumerate(content["labels"])}
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LayoutError(
                f"{config} does not name the classes ({type(error).__name__}: {error})"
            ) from None
    known = ", ".join(path.name for path in configs.values())
    raise LayoutError(f"{download} holds none of {known}: unpack Mapillary Vistas there")


def _labels(path: Path, names: Mapping[int, str], size: tuple[int, int]) -> FrameLabels:
    """Pixels are class x 256 + number."""
    instances = read_ids(path, size)
    ids = instances >> 8
    lanes = [number for number, name in names.items() if name.startswith(_MARKINGS)]
    roads = [number for number, name in names.items() if name in _ROADS]
    boxes = []
    for value in np.unique(instances).tolist():
        name = names.get(value >> 8, "")
        if name.startswith(_OBJECTS):
            boxes.append(Box(bounds(instances == value), name.rpartition("--")[2]))
    return FrameLabels(
        drivable=np.isin(ids, roads + lanes), lane=np.isin(ids, lanes), boxes=tuple(boxes)
    )

"""KITTI: the road benchmark, and the object benchmark, each in its folder `training/`.

KITTI publishes no split to validate on: here it is every fifth image.
"""

import math
from functools import partial
from pathlib import Path

from mtc_perception.datasets.layout import LayoutError
from mtc_perception.datasets.sample import BrokenFile, Problem
from mtc_perception.util.files import read_regular
from offline_compress.convert.frames import Box, Frame, FrameLabels
from offline_compress.convert.label_images import read_colours

_ROAD, _COLOURS = 0xFF00FF, (0xFF00FF, 0xFF0000, 0x000000)
"""Road, other ground that was judged, and what was not."""
_COLUMNS = 15
_IGNORED = "DontCare"


def road_frames(download: Path) -> list[Frame]:
    """Images of the road benchmark. Raises LayoutError."""
    training = download / "training"
    images = sorted((training / "image_2").glob("um*_*.png"))
    if not images:
        raise LayoutError(
            f"{training} holds no image_2/um_000000.png: give data_road/, as it was unpacked"
        )
    found = []
    for number, image in enumerate(images):
        kind, _, index = image.stem.partition("_")
        label = partial(_road, training / "gt_image_2" / f"{kind}_road_{index}.png")
        found.append(Frame(_split(number), image.stem, image, label))
    return found


def object_frames(download: Path) -> list[Frame]:
    """Images of the object benchmark. Raises LayoutError."""
    training = download / "training"
    images = sorted((training / "image_2").glob("[0-9]*.png"))
    if not images:
        raise LayoutError(
            f"{training} holds no image_2/000000.png: unpack data_object_image_2.zip and "
            "data_object_label_2.zip in one folder, and give that"
        )
    return [
        Frame(
            _split(number),
            image.stem,
            image,
            partial(_objects, training / "label_2" / f"{image.stem}.txt"),
        )
        for number, image in enumerate(images)
    ]


def _split(number: int) -> str:
    return "val" if number % 5 == 4 else "train"


def _road(path: Path, size: tuple[int, int]) -> FrameLabels:
    return FrameLabels(drivable=read_colours(path, size, _COLOURS) == _ROAD)


def _objects(path: Path, _size: tuple[int, int]) -> FrameLabels:
    boxes = []
    try:
        for number, line in enumerate(read_regular(path).decode().splitlines(), start=1):
            words = line.split()
            if len(words) < _COLUMNS:
                raise ValueError(f"line {number} has {len(words)} of {_COLUMNS} columns")
            x1, y1, x2, y2 = corners = tuple(map(float, words[4:8]))
            if not all(map(math.isfinite, corners)):
                raise ValueError(f"line {number} has a box of {' '.join(words[4:8])}")
            boxes.append(Box((x1, y1, x2, y2), words[0], words[0] == _IGNORED))
    except (OSError, ValueError) as error:
        raise BrokenFile(Problem("unreadable labels", path, str(error))) from None
    return FrameLabels(boxes=tuple(boxes))

"""Cityscapes: `leftImg8bit/<split>/<city>/` and `gtFine/<split>/<city>/`."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtc_perception.datasets.layout import LayoutError
from offline_compress.convert.frames import Box, Frame, FrameLabels
from offline_compress.convert.label_images import bounds, boxes_of_components, read_ids

_ROAD = 7
_OBJECTS = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    29: "caravan",
    30: "trailer",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""Classes with instances."""
_LEAST_PX = 100
"""Instances of fewer pixels do not count in the data set's own evaluation."""


def frames(download: Path) -> list[Frame]:
    """Images of `train` and `val`; the labels of `test` are not published. Raises LayoutError."""
    found = []
    for split in ("train", "val"):
        for image in sorted((download / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
            stem = image.name.removesuffix("_leftImg8bit.png")
            label = download / "gtFine" / split / image.parent.name / f"{stem}_gtFine"
            found.append(Frame(split, stem, image, partial(_labels, label)))
    if not found:
        raise LayoutError(
            f"{download} holds no leftImg8bit/train/CITY/*_leftImg8bit.png: unpack "
            "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there"
        )
    return found


def _labels(label: Path, size: tuple[int, int]) -> FrameLabels:
    ids = read_ids(label.with_name(f"{label.name}_labelIds.png"), size)
    instances = read_ids(label.with_name(f"{label.name}_instanceIds.png"), size)
    return FrameLabels(drivable=ids == _ROAD, boxes=tuple(_boxes(instances)))


def _boxes(instances: npt.NDArray[Any]) -> Iterator[Box]:
    """Pixels are class x 1000 + number; of a group that nobody took apart, the class alone."""
    for value in np.unique(instances).tolist():
        own = instances == value
        if (name := _OBJECTS.get(value // 1000)) is not None:
            yield Box(bounds(own), name, int(own.sum()) < _LEAST_PX)
        elif (name := _OBJECTS.get(value)) is not None:
            yield from (Box(one.corners, name, True) for one in boxes_of_components(own, name))

"""IDD, the India Driving Dataset: IDD Lite with label images, IDD Segmentation with polygons."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtc_perception.datasets.layout import LayoutError
from mtc_perception.datasets.sample import BrokenFile, Problem
from mtc_perception.util.files import read_regular
from offline_compress.convert.frames import Box, Frame, FrameLabels
from offline_compress.convert.label_images import read_ids

_DRIVABLE_ID = 0
"""Of IDD Lite, whose boxes would be of heaps: its vehicles, motorcycles too, are one class without
instances."""
_DRIVABLE = ("road", "parking", "drivable fallback")
"""What IDD Lite calls drivable, in polygons."""
_OBJECTS = frozenset(
    (
        *("person", "rider", "animal", "bicycle", "motorcycle", "autorickshaw", "car", "truck"),
        *("bus", "caravan", "trailer", "train", "vehicle fallback"),
    )
)


def frames(download: Path) -> list[Frame]:
    """Images of `train` and `val`, of both releases where both are there. Raises LayoutError."""
    found = []
    for split in ("train", "val"):
        for image in sorted((download / "leftImg8bit" / split).glob("*/*")):
            name, _, kind = image.stem.rpartition("_")
            label = download / "gtFine" / split / image.parent.name
            stem = f"{image.parent.name}_{name}"
            if kind == "image":
                read = partial(_lite, label / f"{name}_label.png")
            elif kind == "leftImg8bit":
                read = partial(_polygons, label / f"{name}_gtFine_polygons.json")
            else:
                continue
            found.append(Frame(split, stem, image, read))
    if not found:
        raise LayoutError(
            f"{download} holds no leftImg8bit/train/FOLDER/*_image.jpg, of IDD Lite, and no "
            "*_leftImg8bit.*, of IDD Segmentation: give the folder of leftImg8bit/ and gtFine/"
        )
    return found


def _lite(path: Path, size: tuple[int, int]) -> FrameLabels:
    return FrameLabels(drivable=read_ids(path, size) == _DRIVABLE_ID)


def _polygons(path: Path, size: tuple[int, int]) -> FrameLabels:
    """Later polygons hide earlier ones."""
    height, width = size
    drivable = np.zeros(size, np.uint8)
    boxes = []
    try:
        content = json.loads(read_regular(path))
        if (content["imgHeight"], content["imgWidth"]) != size:
            found = f"labels are of {content['imgWidth']}x{content['imgHeight']}"
            raise ValueError(f"{found}, the image is {width}x{height}")
        for one in content["objects"]:
            points = _points(one)
            if one.get("deleted") or len(points) < 3:
                continue
            cv2.fillPoly(drivable, [np.round(points).astype(np.int32)], one["label"] in _DRIVABLE)
            (x1, y1), (x2, y2) = points.min(0).clip(0), points.max(0).clip(0, (width, height))
            if one["label"] in _OBJECTS and x1 < x2 and y1 < y2:
                boxes.append(Box((float(x1), float(y1), float(x2), float(y2)), one["label"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"not IDD's polygons ({type(error).__name__}: {error})"
        raise BrokenFile(Problem("unreadable labels", path, reason)) from None
    return FrameLabels(drivable=drivable.astype(np.bool_), boxes=tuple(boxes))


def _points(one: dict[str, Any]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    points = np.array(one["polygon"], np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("a point that is no number")
    return points

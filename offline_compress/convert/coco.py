"""COCO: `<split>/` with images and `annotations/instances_<split>.json`."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from mtc_perception.datasets.layout import LayoutError
from mtc_perception.datasets.split_files import number
from mtc_perception.util.files import read_regular
from offline_compress.convert.frames import Box, Frame, FrameLabels

_PREFIX = "instances_"


def frames(download: Path) -> list[Frame]:
    """All images that a file of annotations lists, with or without objects. Raises LayoutError."""
    files = sorted((download / "annotations").glob(f"{_PREFIX}*.json"))
    if not files:
        raise LayoutError(
            f"{download} holds no annotations/{_PREFIX}*.json: unpack images and annotations there"
        )
    return [frame for path in files for frame in _frames(download, path)]


def _frames(download: Path, path: Path) -> list[Frame]:
    split = path.stem.removeprefix(_PREFIX)
    folder = download / split
    if not folder.is_dir():
        folder = download / "images" / split
    entry: Any = None
    try:
        content = json.loads(read_regular(path))
        names = {one["id"]: str(one["name"]) for one in content["categories"]}
        boxes: dict[Any, list[Box]] = {one["id"]: [] for one in content["images"]}
        for entry in content["annotations"]:
            x, y, width, height = map(number, entry["bbox"])
            box = Box(
                (x, y, x + width, y + height),
                names[entry["category_id"]],
                bool(entry.get("iscrowd")),
            )
            boxes[entry["image_id"]].append(box)
        return [
            Frame(
                split,
                Path(entry["file_name"]).stem,
                folder / entry["file_name"],
                partial(_labels, tuple(boxes[entry["id"]])),
            )
            for entry in content["images"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        where = f" at id {entry.get('id')}" if isinstance(entry, dict) else ""
        raise LayoutError(
            f"{path} is no COCO file{where} ({type(error).__name__}: {error})"
        ) from None


def _labels(boxes: tuple[Box, ...], _size: tuple[int, int]) -> FrameLabels:
    return FrameLabels(boxes=boxes)

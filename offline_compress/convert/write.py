"""A download written in the project's layout, each file of it decoded on the way."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.datasets.layout import BrokenFile, LayoutError, read_image
from mtc_perception.datasets.pixels import outside
from mtc_perception.datasets.sample import HARMLESS, Problem
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import replacing_folder
from mtc_perception.util.progress import Count
from mtc_perception.util.read_ahead import map_ahead
from offline_compress.convert.frames import Box, Frame, FrameLabels, Mask
from offline_compress.convert.kinds import KINDS

_JPEG_QUALITY = 95


@dataclass(slots=True)
class SplitCounts:
    """What was written of one split."""

    images: int = 0
    cover: dict[str, float] = field(default_factory=dict)
    """Mean part of its labelled images that is drivable, or lane, 0 to 1."""
    boxes: Counter[str] = field(default_factory=Counter)
    """By category, without regions to ignore."""
    ignore_regions: int = 0


@dataclass(slots=True)
class Converted:
    """What became of a download."""

    splits: dict[str, SplitCounts] = field(default_factory=dict)
    left_out: int = 0
    """Images of which something is broken, or that have no label."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def broken(self) -> list[Problem]:
        """The problems for which an image was left out, or has labels that cannot be right."""
        return [problem for problem in self.problems if problem.kind not in HARMLESS]


@dataclass(frozen=True, slots=True)
class _Written:
    """One image in its place, or left out where it or its labels cannot be read."""

    split: str
    name: str = ""
    size: tuple[int, int] = (0, 0)
    boxes: tuple[Box, ...] | None = None
    cover: dict[str, float] = field(default_factory=dict)
    left_out: bool = False
    problems: tuple[Problem, ...] = ()


def convert(
    kind: str,
    download: Path,
    out: Path,
    width_px: int | None,
    count: Count,
    val_fraction: float | None = None,
) -> Converted:
    """Write the download of a data set to the folder `out`, which does not exist.

    Images are linked or copied, or scaled down to `width_px` with their labels where they are
    wider. An image of which something is broken is left out. Of a download of one split,
    `val_fraction` becomes `val`. Raises UserError for an unknown kind, where `out` exists, and for
    a fraction of several splits or that leaves one empty; LayoutError if the download is not laid
    out as published, two images have one name, or everything is broken.
    """
    read = _reader(kind)
    if out.exists():
        raise UserError(f"{out} exists: delete it, or convert to another place")
    if not download.is_dir():
        raise LayoutError(f"{download} is no folder: unpack the download, and give where")
    frames = read(download)
    if val_fraction is not None:
        frames = _divided(frames, val_fraction)
    _refuse_double(frames)
    out.parent.mkdir(parents=True, exist_ok=True)
    converted = Converted()
    with replacing_folder(out) as folder:
        entries: dict[str, list[_Written]] = {}
        for done, one in enumerate(_written(frames, folder, width_px), start=1):
            converted.problems += one.problems
            converted.left_out += one.left_out
            if not one.left_out:
                entries.setdefault(one.split, []).append(one)
            count(done, len(frames))
        if not entries:
            raise LayoutError(f"nothing of {download} can be used: {converted.problems[0]}")
        categories = sorted({box.category for found in entries.values() for box in _boxes(found)})
        for split, found in entries.items():
            _write_boxes(folder / "det" / f"{split}.json", found, categories)
            converted.splits[split] = _counts(found)
    return converted


def _reader(kind: str) -> Any:
    known = KINDS.get(kind)
    if known is None:
        raise UserError(f"no data set {kind} is known; {', '.join(KINDS)} are")
    if known.frames is None:
        raise UserError(f"{known.title} needs no conversion: its layout is read as it is")
    return known.frames


def _divided(frames: Sequence[Frame], fraction: float) -> list[Frame]:
    """Of the images in the order of their names, every n-th validates, the others train."""
    splits = sorted({frame.split for frame in frames})
    if len(splits) > 1:
        raise UserError(f"the download has splits {', '.join(splits)}: leave out --val-fraction")
    divided = [
        replace(frame, split="val" if int((n + 1) * fraction) > int(n * fraction) else "train")
        for n, frame in enumerate(sorted(frames, key=lambda frame: frame.stem))
    ]
    if len({frame.split for frame in divided}) < 2:
        raise UserError(
            f"of {len(frames)} images, --val-fraction {fraction:g} leaves a split empty"
        )
    return divided


def _refuse_double(frames: Sequence[Frame]) -> None:
    first: dict[tuple[str, str], Frame] = {}
    for frame in frames:
        other = first.setdefault((frame.split, frame.stem), frame)
        if other is not frame:
            raise LayoutError(f"{other.image} and {frame.image} would have one name")


def _written(frames: Sequence[Frame], folder: Path, width_px: int | None) -> Iterable[_Written]:
    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        yield from map_ahead(pool, partial(_write, folder, width_px), frames, 8 * threads)


def _write(folder: Path, width_px: int | None, frame: Frame) -> _Written:
    try:
        image = read_image(frame.image)
        size = image.shape[0], image.shape[1]
        labels = frame.labels(size)
    except BrokenFile as error:
        return _Written(frame.split, left_out=True, problems=(error.problem,))
    labels = _without_flat(labels, frame.image)
    problems = labels.problems + tuple(_reaching_out(labels, frame.image, size))
    place = folder / "images" / frame.split / f"{frame.stem}{frame.image.suffix.lower()}"
    place.parent.mkdir(parents=True, exist_ok=True)
    if width_px is None or width_px >= size[1]:
        _link(frame.image, place)
    else:
        place = place.with_name(f"{frame.stem}.jpg")
        size = max(round(size[0] * width_px / size[1]), 1), width_px
        labels = _scaled(labels, width_px / image.shape[1], size)
        smaller = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        _encode(place, np.ascontiguousarray(smaller[..., ::-1]), quality)
    cover = {}
    for task, mask in (("drivable", labels.drivable), ("lane", labels.lane)):
        if mask is not None:
            path = folder / task / frame.split / f"{frame.stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _encode(path, mask.astype(np.uint8) * 255, [])
            cover[task] = float(mask.mean())
    return _Written(frame.split, place.name, size, labels.boxes, cover, problems=problems)


def _without_flat(labels: FrameLabels, image: Path) -> FrameLabels:
    """Without boxes that have no size, which are named."""
    flat = [
        box
        for box in labels.boxes or ()
        if not (box.corners[0] < box.corners[2] and box.corners[1] < box.corners[3])
    ]
    if not flat or labels.boxes is None:
        return labels
    named = tuple(
        Problem("unusable box", image, f"its box {box.corners} of {box.category} has no size")
        for box in flat
    )
    kept = tuple(box for box in labels.boxes if box not in flat)
    return replace(labels, boxes=kept, problems=labels.problems + named)


def _reaching_out(labels: FrameLabels, image: Path, size: tuple[int, int]) -> Iterable[Problem]:
    corners = np.array([box.corners for box in labels.boxes or ()], np.float32)
    if reason := outside(corners.reshape(-1, 2, 2), size):
        yield Problem("label outside the image", image, f"a box {reason}")


def _link(image: Path, place: Path) -> None:
    """The same file under a second name where the file system can do it, else a copy."""
    try:
        os.link(image.resolve(), place)
    except OSError:
        shutil.copyfile(image, place)


def _scaled(labels: FrameLabels, scale: float, size: tuple[int, int]) -> FrameLabels:
    """Labels of an image made `scale` times as large: a pixel is labelled if half of it was."""

    def smaller(mask: Mask | None) -> Mask | None:
        if mask is None:
            return None
        part = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(part >= 0.5 - 1e-6)

    def shrunk(box: Box) -> Box:
        x1, y1, x2, y2 = box.corners
        return replace(box, corners=(x1 * scale, y1 * scale, x2 * scale, y2 * scale))

    boxes = None if labels.boxes is None else tuple(map(shrunk, labels.boxes))
    return FrameLabels(smaller(labels.drivable), smaller(labels.lane), boxes)


def _encode(path: Path, pixels: npt.NDArray[np.uint8], options: list[int]) -> None:
    done, data = cv2.imencode(path.suffix, pixels, options)
    if not done:
        raise RuntimeError(f"OpenCV cannot encode {path.suffix}")
    path.write_bytes(data.tobytes())


def _boxes(found: Iterable[_Written]) -> Iterable[Box]:
    return (box for one in found for box in one.boxes or ())


def _write_boxes(path: Path, found: Sequence[_Written], categories: Sequence[str]) -> None:
    """COCO's format, of the images whose boxes are labelled; nothing where none are."""
    numbers = {name: number for number, name in enumerate(categories, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for one in found:
        if one.boxes is None:
            continue
        height, width = one.size
        entry = {"id": len(images) + 1, "file_name": one.name, "width": width, "height": height}
        images.append(entry)
        for box in one.boxes:
            x1, y1, x2, y2 = (round(edge, 2) for edge in box.corners)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": numbers[box.category],
                    "iscrowd": int(box.crowd),
                    "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                    "area": round((x2 - x1) * (y2 - y1), 2),
                }
            )
    if images:
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        }
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


def _counts(found: Sequence[_Written]) -> SplitCounts:
    counts = SplitCounts(images=len(found))
    for task in ("drivable", "lane"):
        if covers := [one.cover[task] for one in found if task in one.cover]:
            counts.cover[task] = sum(covers) / len(covers)
    for box in _boxes(found):
        if box.crowd:
            counts.ignore_regions += 1
        else:
            counts.boxes[box.category] += 1
    return counts

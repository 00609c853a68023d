"""The project's data layout: images, two kinds of masks and COCO boxes, each of them optional.

`images/<split>/<stem>.jpg`, `drivable/<split>/<stem>.png`, `lane/<split>/<stem>.png` and
`det/<split>.json`. What is missing is unlabelled, never negative: an image the detection file
lists without boxes has no vehicle, an image it does not list is unlabelled.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.errors import UserError
from mtc_perception.metrics import GroundTruth

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class LayoutError(UserError):
    """A data set is missing, incomplete or broken."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image and its labels; `None` means unlabelled for that task."""

    stem: str
    image_path: Path
    drivable_path: Path | None
    lane_path: Path | None
    boxes: npt.NDArray[np.float32] | None
    """[n, 4] x1, y1, x2, y2 in image pixels (pixel edges)."""
    ignore: npt.NDArray[np.bool_] | None
    """[n] COCO `iscrowd`: neither a target to train on nor a miss or false alarm to count."""

    @property
    def labelled(self) -> bool:
        """Whether any task is labelled."""
        return not (self.boxes is None and self.drivable_path is None and self.lane_path is None)


class _Boxes(NamedTuple):
    boxes: npt.NDArray[np.float32]
    ignore: npt.NDArray[np.bool_]


def read_split(root: Path | str, split: str) -> list[Sample]:
    """Index one split of a data set, sorted by stem; opens no image.

    Raises LayoutError for a missing data set or split, and names the first broken file and the
    number of further ones.
    """
    root = Path(root)
    folder = root / "images" / split
    if not folder.is_dir():
        raise LayoutError(_missing_split(root, split))
    problems: list[str] = []
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in images:
            problems.append(f"{path}: another image has the same stem ({images[path.stem].name})")
        elif path.stat().st_size == 0:
            problems.append(f"{path}: empty file")
        else:
            images[path.stem] = path
    if not images and not problems:
        raise LayoutError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    drivable = _masks(root / "drivable" / split, problems)
    lane = _masks(root / "lane" / split, problems)
    detections = _detections(root / "det" / f"{split}.json", problems)
    if problems:
        more = f" (and {len(problems) - 1} more broken)" if len(problems) > 1 else ""
        raise LayoutError(f"{problems[0]}{more}")
    samples = []
    for stem, path in images.items():
        found = detections.get(stem)
        samples.append(
            Sample(
                stem=stem,
                image_path=path,
                drivable_path=drivable.get(stem),
                lane_path=lane.get(stem),
                boxes=found.boxes if found else None,
                ignore=found.ignore if found else None,
            )
        )
    return samples


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Decode one image to uint8 [H, W, 3] RGB. Raises LayoutError naming a file that fails."""
    pixels = _decode(path, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def read_mask(path: Path, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Decode one mask of an image of `size` (height, width) to bool [H, W], true on foreground.

    Raises LayoutError naming a file that fails or has another size than its image.
    """
    pixels = _decode(path, cv2.IMREAD_GRAYSCALE)
    if pixels.shape != size:
        raise LayoutError(
            f"{path}: mask is {pixels.shape[1]}x{pixels.shape[0]}, its image {size[1]}x{size[0]}"
        )
    return pixels > 127


def read_truth(sample: Sample, size: tuple[int, int]) -> GroundTruth:
    """Labels of a sample whose image is of `size` (height, width). Raises LayoutError."""
    drivable, lane = sample.drivable_path, sample.lane_path
    return GroundTruth(
        boxes=sample.boxes,
        ignore=sample.ignore,
        drivable=read_mask(drivable, size) if drivable else None,
        lane=read_mask(lane, size) if lane else None,
    )


def _decode(path: Path, flags: int) -> npt.NDArray[np.uint8]:
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise LayoutError(f"{path}: {error.strerror or error}") from None
    # The size is checked first because cv2 raises on an empty buffer but returns None on garbage.
    pixels = cv2.imdecode(data, flags) if data.size else None
    if pixels is None:
        raise LayoutError(f"{path}: not a readable image")
    return np.asarray(pixels, dtype=np.uint8)


def _missing_split(root: Path, split: str) -> str:
    if not root.is_dir():
        return f"data set {root} does not exist"
    images = root / "images"
    if not images.is_dir():
        return f"{root} is no data set: it has no folder images/<split>"
    splits = sorted(path.name for path in images.iterdir() if path.is_dir())
    return f"{root} has no split '{split}'; it has: {', '.join(splits) or 'none'}"


def _masks(folder: Path, problems: list[str]) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    masks = {}
    for path in sorted(folder.glob("*.png")):
        if path.stat().st_size == 0:
            problems.append(f"{path}: empty file")
        else:
            masks[path.stem] = path
    return masks


def _detections(path: Path, problems: list[str]) -> dict[str, _Boxes]:
    """Boxes per image stem from one COCO file; a problem in it costs one entry each."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stems = {entry["id"]: Path(entry["file_name"]).stem for entry in content["images"]}
        categories = content["categories"]
        annotations = content["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"{path}: not a COCO file ({type(error).__name__}: {error})")
        return {}
    if len(categories) > 1:
        problems.append(f"{path}: {len(categories)} categories, but one (vehicle) is expected")
        return {}
    found: dict[Any, list[tuple[list[float], bool]]] = {image: [] for image in stems}
    for annotation in annotations:
        try:
            x, y, width, height = (float(value) for value in annotation["bbox"])
            target = found[annotation["image_id"]]
            usable = np.isfinite([x, y, width, height]).all() and width > 0 and height > 0
            crowd = bool(annotation.get("iscrowd", 0))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"{path}: broken annotation ({type(error).__name__}: {error})")
            continue
        if not usable:
            problems.append(f"{path}: annotation {annotation.get('id')} has an unusable bbox")
            continue
        target.append(([x, y, x + width, y + height], crowd))
    return {
        stem: _Boxes(
            np.array([box for box, _ in found[image]], dtype=np.float32).reshape(-1, 4),
            np.array([crowd for _, crowd in found[image]], dtype=np.bool_),
        )
        for image, stem in stems.items()
    }

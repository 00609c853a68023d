"""The project's own layout: two kinds of masks and COCO boxes, each of them optional.

`images/<split>/<stem>.jpg`, `drivable/<split>/<stem>.png`, `lane/<split>/<stem>.png` and
`det/<split>.json`. An image the detection file lists without boxes has no vehicle, an image it
does not list is unlabelled. Boxes without a category are vehicles.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtc_perception.core.class_map import VEHICLE
from mtc_perception.datasets.sample import BINARY, Boxes, BoxRow, Labels, Problem
from mtc_perception.datasets.split_files import (
    mask_files,
    number,
    read_json,
    stem_of,
    unreadable,
)


def read_labels(root: Path, split: str) -> Labels:
    """Labels of one split; opens no mask."""
    labels = Labels()
    path = root / "det" / f"{split}.json"
    if path.exists():
        content = read_json(path, labels.problems)
        if content is not None:
            labels = coco_labels(content, path)
    labels.drivable = mask_files(root / "drivable" / split, BINARY, labels.problems)
    labels.lane = mask_files(root / "lane" / split, BINARY, labels.problems)
    return labels


def coco_labels(content: Any, path: Path) -> Labels:
    """Boxes, and sizes of images, that one COCO file has as its `content`.

    A problem in it costs one entry each, and an image with a broken annotation is left out. An
    annotation that may be of any image is one with which the file is refused.
    """
    labels = Labels()
    problems = labels.problems
    try:
        images, annotations, categories = (
            _list(content, name) for name in ("images", "annotations", "categories")
        )
    except ValueError as error:
        problems.append(unreadable(path, "not a COCO file", error))
        return labels
    names = _names(categories, path, problems)
    alone = next(iter(names.values())) if len(names) == 1 else ""
    stems = _stems(images, path, problems)
    written = {_written(identifier): stem for identifier, stem in stems.items()}
    kinds_of_ids = {isinstance(identifier, str) for identifier in stems}
    found: dict[str, list[BoxRow]] = {stem: [] for stem in stems.values()}
    broken: set[str] = set()
    fitting, largest = 0, 0.0
    for index, annotation in enumerate(annotations):
        image_id = _field(annotation, "image_id")
        stem: str | None = None
        if _is_identifier(image_id):
            # One that is written in another way is broken, but tells which image misses a box.
            stem = stems.get(image_id, written.get(_written(image_id)))
        fitting += stem is not None
        try:
            stem = stems[_identifier(annotation, "image_id", stems, "image")]
            category = alone
            if annotation.get("category_id") is not None:
                category = names[_identifier(annotation, "category_id", names, "category")]
            corners, crowd = _box(annotation)
        except ValueError as error:
            name = _field(annotation, "id")
            what = f"broken annotation {f'at {index}' if name is None else name}"
            problem = unreadable(path, what, error, stem)
            if stem is not None:
                broken.add(stem)
            elif not _is_identifier(image_id) or isinstance(image_id, str) not in kinds_of_ids:
                # Any image may miss a box; the identifiers of others are those of images left out.
                problem = replace(problem, kind="labels fit no image")
            problems.append(problem)
            continue
        x1, y1, x2, y2 = corners
        largest = max(largest, x2, y2)
        if x1 < x2 and y1 < y2:
            found[stem].append((corners, crowd, category.strip() or VEHICLE))
        else:
            reason = f"annotation {annotation.get('id')} has a bbox without a size"
            problems.append(Problem("unusable box", path, reason, stem))
    if annotations and not fitting:
        reason = f"none of {len(annotations)} annotations is of an image that it lists"
        problems.append(Problem("labels fit no image", path, reason))
    if 0 < largest <= 1:
        reason = "every bbox is within 0 and 1: write pixels, COCO has no fractions of the image"
        problems.append(Problem("unreadable labels", path, reason))
        return labels
    labels.boxes = {stem: Boxes.of(rows) for stem, rows in found.items() if stem not in broken}
    labels.origin = dict.fromkeys(labels.boxes, path)
    for entry in images:
        stem = stems.get(identifier) if _is_identifier(identifier := _field(entry, "id")) else None
        size = _side(entry, "height"), _side(entry, "width")
        # Exports that do not know the size write 0.
        if stem in labels.boxes and all(size):
            labels.sizes[stem] = size
    return labels


_Corners = tuple[float, float, float, float]
_TOO_LONG = 1_000_000
"""Pixels of a side that no image has."""


def _side(entry: Any, name: str) -> int:
    """A side of a listed image, which some write as a text; 0 where it is not known."""
    given = _field(entry, name)
    if isinstance(given, str) and given.strip().isdecimal():
        given = int(given[:9])
    return int(given) if isinstance(given, int | float) and 0 < given < _TOO_LONG else 0


def _names(categories: list[Any], path: Path, problems: list[Problem]) -> dict[Any, str]:
    """The names of categories by identifier; appends those that share one."""
    names: dict[Any, str] = {}
    for one in categories:
        if not _is_identifier(identifier := _field(one, "id")):
            continue
        name = "" if (given := _field(one, "name")) is None else str(given)
        first = names.setdefault(identifier, name)
        if first != name:
            reason = f"categories {first} and {name} have one id, {identifier}"
            problems.append(Problem("duplicate name", path, reason))
    return names


def _stems(images: list[Any], path: Path, problems: list[Problem]) -> dict[Any, str]:
    """The stems of images by identifier; appends images that share a name or an identifier."""
    stems: dict[Any, str] = {}
    names: dict[str, str] = {}
    for index, entry in enumerate(images):
        try:
            identifier, name = entry["id"], entry["file_name"]
            if not _is_identifier(identifier):
                raise ValueError(f"id is {identifier!r}")
            if not isinstance(name, str):
                raise ValueError(f"file_name is {name!r}")
        except (KeyError, TypeError, ValueError) as error:
            problems.append(unreadable(path, f"broken entry of images at {index}", error))
            continue
        stem = stem_of(name)
        if stem in names:
            reason = f"{names[stem]} and {name} are both image {stem}: list it once"
            problems.append(Problem("duplicate name", path, reason))
        elif identifier in stems:
            reason = f"images {stems[identifier]} and {stem} have one id, {identifier}"
            problems.append(Problem("duplicate name", path, reason))
        names.setdefault(stem, name)
        stems.setdefault(identifier, stem)
    return stems


def _identifier(annotation: Any, field: str, known: Collection[Any], what: str) -> Any:
    """A field of an annotation that names one of `known`. Raises ValueError."""
    if not isinstance(annotation, dict):
        raise ValueError("no object")
    if field not in annotation:
        raise ValueError(f"it has no {field}")
    value = annotation[field]
    if not _is_identifier(value) or value not in known:
        raise ValueError(f"{field} is {value!r}, which no {what} has")
    return value


def _written(identifier: float | str) -> float | str:
    """The same for 2, 2.0, "2" and "0002"."""
    try:
        return float(identifier)
    except (ValueError, OverflowError):
        return identifier


def _is_identifier(value: Any) -> bool:
    # To Python, true is 1.
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _field(entry: Any, name: str) -> Any:
    """A field of an entry; None where there is none."""
    return entry.get(name) if isinstance(entry, dict) else None


def _list(content: Any, name: str) -> list[Any]:
    """A list of a COCO file. Raises ValueError."""
    if not isinstance(found := _field(content, name), list):
        raise ValueError(f"it has no list {name}")
    return found


def _box(annotation: dict[str, Any]) -> tuple[_Corners, bool]:
    """Corners of an annotation's box, and whether to ignore it. Raises ValueError."""
    crowd = annotation.get("iscrowd")
    if crowd not in (0, 1, None):
        raise ValueError(f"iscrowd is {crowd!r}")
    given = annotation.get("bbox")
    if given is None or given == []:
        return _around(annotation.get("segmentation")), bool(crowd)
    try:
        x, y, width, height = map(number, given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"bbox is {given!r}: {error}") from None
    return (x, y, x + width, y + height), bool(crowd)


def _around(polygons: Any) -> _Corners:
    """The box around polygons, `[[x, y, x, y, ...], ...]`. Raises ValueError."""
    if not isinstance(polygons, list) or not all(isinstance(one, list) for one in polygons):
        raise ValueError("it has neither a bbox nor polygons")
    if any(len(one) % 2 for one in polygons):
        raise ValueError("it has a polygon that is not made of pairs x, y")
    xs = [number(value) for one in polygons for value in one[::2]]
    ys = [number(value) for one in polygons for value in one[1::2]]
    if not xs or not ys:
        raise ValueError("it has neither a bbox nor polygons")
    return min(xs), min(ys), max(xs), max(ys)

"""The project's own layout: two kinds of masks and COCO boxes, each of them optional.

`images/<split>/<stem>.jpg`, `drivable/<split>/<stem>.png`, `lane/<split>/<stem>.png` and
`det/<split>.json`. An image the detection file lists without boxes has no vehicle, an image it
does not list is unlabelled.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mtc_perception.datasets.sample import BINARY, Boxes, Labels, Problem
from mtc_perception.datasets.split_files import mask_files, read_json, unreadable


def read_labels(root: Path, split: str) -> Labels:
    """Labels of one split; opens no mask."""
    labels = Labels()
    labels.drivable = mask_files(root / "drivable" / split, BINARY, labels.problems)
    labels.lane = mask_files(root / "lane" / split, BINARY, labels.problems)
    path = root / "det" / f"{split}.json"
    if path.is_file():
        labels.boxes = _detections(path, labels.problems)
        labels.origin = dict.fromkeys(labels.boxes, path)
    return labels


def _detections(path: Path, problems: list[Problem]) -> dict[str, Boxes]:
    """Boxes per image stem from one COCO file; a problem in it costs one entry each."""
    content = read_json(path, problems)
    if content is None:
        return {}
    try:
        stems = {entry["id"]: Path(entry["file_name"]).stem for entry in content["images"]}
        categories = content["categories"]
        annotations = content["annotations"]
    except (KeyError, TypeError) as error:
        problems.append(unreadable(path, "not a COCO file", error))
        return {}
    if len(categories) > 1:
        reason = f"{len(categories)} categories, but one (vehicle) is expected"
        problems.append(Problem("unreadable labels", path, reason))
        return {}
    found: dict[Any, list[tuple[tuple[float, float, float, float], bool]]] = {
        image: [] for image in stems
    }
    for annotation in annotations:
        try:
            x, y, width, height = (float(value) for value in annotation["bbox"])
            target = found[annotation["image_id"]]
            if not np.isfinite([x, y, width, height]).all():
                raise ValueError("bbox with a coordinate that is no number")
            crowd = bool(annotation.get("iscrowd", 0))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(unreadable(path, "broken annotation", error))
            continue
        if width > 0 and height > 0:
            target.append(((x, y, x + width, y + height), crowd))
        else:
            reason = f"annotation {annotation.get('id')} has a bbox without a size"
            problems.append(Problem("unusable box", path, reason))
    return {stem: Boxes.of(found[image]) for image, stem in stems.items()}

"""COCO: one JSON file for each split, as cocodataset.org, CVAT, Roboflow and others lay it out.

`annotations/instances_<split>.json` beside `<split>/` or `images/`,
`<split>/_annotations.coco.json` among its images, or a single JSON file beside `images/`.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unicodedata import normalize

from mtc_perception.datasets.layout import LayoutError
from mtc_perception.datasets.pixels import other_size
from mtc_perception.datasets.project import coco_labels
from mtc_perception.datasets.sample import HARMLESS, BrokenFile, Labels, Problem
from mtc_perception.datasets.split_files import images_below, read_json, stem_of
from offline_compress.convert.frames import Box, Frame, FrameLabels, refused

_PREFIX, _ROBOFLOW = "instances_", "_annotations.coco.json"


def frames(download: Path) -> list[Frame]:
    """All images, with or without objects; those that no file lists are left out.

    Raises LayoutError.
    """
    found: list[Frame] = []
    folders: dict[Path, tuple[str, Path]] = {}
    for split, path, folder in _files(download):
        found += _frames(split, path, (folder, download))
        folders.setdefault(folder, (split, path))
    listed = {frame.image for frame in found}
    for folder, (split, path) in folders.items():
        for image in images_below(folder):
            if image not in listed:
                reason = f"{path.name} does not list it: its objects are unknown"
                unlisted = Problem("image without label", image, reason)
                # It is called by its whole path, for its stem may be that of another.
                found.append(Frame(split, str(image), image, partial(refused, unlisted)))
    return found


def _files(download: Path) -> list[tuple[str, Path, Path]]:
    """Split, JSON file and folder of images of each. Raises LayoutError."""
    if files := sorted((download / "annotations").glob(f"{_PREFIX}*.json")):
        splits = [path.stem.removeprefix(_PREFIX) for path in files]
        return [
            (split, path, _folder(download, split))
            for split, path in zip(splits, files, strict=True)
        ]
    if files := sorted(download.glob(f"*/{_ROBOFLOW}")):
        names = {"valid": "val"}
        return [(names.get(one.parent.name, one.parent.name), one, one.parent) for one in files]
    files = sorted((*download.glob("*.json"), *(download / "annotations").glob("*.json")))
    if len(files) == 1:
        return [("train", files[0], _folder(download, "train"))]
    more = f"several JSON files, such as {files[0].name} and {files[1].name}" if files else "none"
    raise LayoutError(
        f"{download} must hold annotations/{_PREFIX}*.json with their images, "
        f"train/{_ROBOFLOW} among them, or one JSON file beside images/, and holds {more}"
    )


def _folder(download: Path, split: str) -> Path:
    places = (download / split, download / "images" / split, download / "images")
    return next((place for place in places if place.is_dir()), download)


def _frames(split: str, path: Path, folders: Sequence[Path]) -> Iterator[Frame]:
    """The images that one file lists. Raises LayoutError."""
    problems: list[Problem] = []
    content = read_json(path, problems)
    labels = Labels(problems=problems) if problems else coco_labels(content, path)
    alone = [one for one in labels.problems if one.stem is None and one.kind not in HARMLESS]
    if alone:
        more = f" (and {len(alone) - 1} more like it)" if len(alone) > 1 else ""
        raise LayoutError(f"{alone[0]}{more}")
    if not content["images"]:
        raise LayoutError(f"{path} lists no image")
    _check_names(content["categories"], path)
    odd: dict[str | None, list[Problem]] = {}
    for problem in labels.problems:
        odd.setdefault(problem.stem, []).append(problem)
    for entry in content["images"]:
        stem = stem_of(entry["file_name"])
        image = _image(folders, entry["file_name"])
        read = partial(_labels, labels, tuple(odd.get(stem, ())), image, stem)
        yield Frame(split, stem, image, read)


def _check_names(categories: Sequence[Any], path: Path) -> None:
    for one in categories:
        identifier, name = (one.get("id"), one.get("name")) if isinstance(one, dict) else (one, "")
        if not isinstance(name, str) or not name.strip():
            raise LayoutError(f"{path}: category {identifier} has no name: give it one")


def _image(folders: Sequence[Path], name: str) -> Path:
    """Where an image lies: exports name paths of Windows, and of the machine they come from.

    Systems write accents in one of two forms.
    """
    forms = [Path(normalize(form, name.replace("\\", "/"))) for form in ("NFC", "NFD")]
    given = [one for form in forms for one in (form, form.name)]
    places = [folder / one for one in given for folder in folders]
    return next((place for place in places if place.is_file()), places[0])


def _labels(
    labels: Labels, odd: tuple[Problem, ...], image: Path, stem: str, size: tuple[int, int]
) -> FrameLabels:
    if (found := labels.boxes.get(stem)) is None:
        raise BrokenFile(next(one for one in odd if one.kind not in HARMLESS))
    if problem := other_size(image, size, labels.sizes.get(stem)):
        raise BrokenFile(problem)
    rows = zip(found.boxes.tolist(), found.categories, found.ignore.tolist(), strict=True)
    return FrameLabels(
        boxes=tuple(Box((x1, y1, x2, y2), name, crowd) for (x1, y1, x2, y2), name, crowd in rows),
        problems=odd,
    )

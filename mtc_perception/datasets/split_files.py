"""Files of one split: images and masks by stem, small label files decoded."""

import json
from pathlib import Path
from typing import Any

from mtc_perception.datasets.sample import MaskCoding, MaskFile, MaskSource, Problem

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def image_files(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    """The images of a folder by stem, sorted; appends empty files and double stems."""
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in images:
            reason = f"another image has the same stem ({images[path.stem].name})"
            problems.append(Problem("duplicate stem", path, reason))
        elif path.stat().st_size == 0:
            problems.append(Problem("empty file", path, "empty file"))
        else:
            images[path.stem] = path
    return images


def label_files(folder: Path, suffix: str, problems: list[Problem]) -> dict[str, Path]:
    """The files of a folder with a suffix such as `.png` by stem; appends empty ones.

    A folder that does not exist holds none. An empty `.txt` is a label: no vehicle.
    """
    found = {}
    for path in sorted(folder.glob(f"*{suffix}")):
        if path.stat().st_size == 0 and suffix != ".txt":
            problems.append(Problem("empty file", path, "empty file"))
        else:
            found[path.stem] = path
    return found


def mask_files(folder: Path, coding: MaskCoding, problems: list[Problem]) -> dict[str, MaskSource]:
    """The PNG masks of a folder by stem; appends empty files."""
    return {
        stem: MaskFile(path, coding) for stem, path in label_files(folder, ".png", problems).items()
    }


def read_json(path: Path, problems: list[Problem]) -> Any:
    """Content of a JSON file, or None after appending why it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        problems.append(unreadable(path, "not a JSON file", error))
        return None


def unreadable(path: Path, what: str, error: Exception) -> Problem:
    """A label file, or one entry of it, that is not of its format."""
    return Problem("unreadable labels", path, f"{what} ({type(error).__name__}: {error})")

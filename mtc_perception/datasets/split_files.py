"""Files of one split: images and masks by stem, small label files decoded."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from mtc_perception.datasets.sample import MaskCoding, MaskFile, MaskSource, Problem
from mtc_perception.util.files import read_regular

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
OTHER_SUFFIXES = (".bmp", ".tif", ".tiff", ".gif", ".heic", ".avif")
"""Of images that nothing here reads."""
_TOO_LARGE = 1e30
"""So that sums of a few numbers are still ones that float32 holds."""


def visible(folder: Path) -> Iterator[Path]:
    """What is in a folder, sorted, but for hidden files and what macOS puts beside them.

    That is a `._a.txt` for `a.txt`, and a folder of such in a zip file.
    """
    hidden = (".", "__MACOSX")
    return (path for path in sorted(folder.iterdir()) if not path.name.startswith(hidden))


def image_paths(folder: Path) -> list[Path]:
    """The image files of a folder, sorted."""
    return [
        path
        for path in visible(folder)
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()
    ]


def images_below(folder: Path) -> Iterator[Path]:
    """The image files of a folder and of those in it, sorted."""
    for path in visible(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
            yield path
        elif path.is_dir() and not path.is_symlink():  # which may lead back here
            yield from images_below(path)


def unread_images(folder: Path) -> Iterator[Problem]:
    """The images of a folder of which nothing comes to be read, and why."""
    for path in visible(folder):
        suffix = path.suffix.lower()
        reason = ""
        if suffix in OTHER_SUFFIXES:
            reason = f"no {suffix} is read: convert it to JPEG or PNG"
        elif suffix not in IMAGE_SUFFIXES and path.is_dir():
            first = next(images_below(path), None)
            if first is not None:
                path = first
                reason = f"images in sub-folders are not read: move them to {folder}"
        if reason:
            yield Problem("image that is not looked at", path, reason)


def image_files(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    """The images of a folder by stem, sorted; appends those whose stem another one has."""
    return _by_stem(image_paths(folder), "image", problems)


def label_files(folder: Path, suffix: str, problems: list[Problem]) -> dict[str, Path]:
    """The files of a folder with a suffix such as `.png` by stem; appends empty and double ones.

    A folder that does not exist holds none. An empty `.txt` is a label: no vehicle.
    """
    if not folder.is_dir():
        return {}
    paths = [path for path in visible(folder) if path.suffix.lower() == suffix]
    found = _by_stem(paths, "label", problems)
    empty = [] if suffix == ".txt" else [stem for stem, path in found.items() if _is_empty(path)]
    problems += [Problem("empty file", found.pop(stem), "empty file", stem) for stem in empty]
    return found


def mask_files(folder: Path, coding: MaskCoding, problems: list[Problem]) -> dict[str, MaskSource]:
    """The PNG masks of a folder by stem; appends empty and double files, and other images."""
    found = label_files(folder, ".png", problems)
    for path in visible(folder) if folder.is_dir() else ():
        suffix, stem = path.suffix.lower(), _composed(path.stem)
        if suffix in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES) and suffix != ".png" and stem not in found:
            reason = f"no {suffix} is read as a mask: convert it to PNG"
            problems.append(Problem("unreadable mask", path, reason, stem))
    return {stem: MaskFile(path, coding) for stem, path in found.items()}


def read_json(path: Path, problems: list[Problem], stem: str | None = None) -> Any:
    """Content of a JSON file, or None after appending why it cannot be read.

    `stem` is that of the only image that it has labels of.
    """
    try:
        return json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(unreadable(path, "not a JSON file", error, stem))
        return None


def unreadable(path: Path, what: str, error: Exception, stem: str | None = None) -> Problem:
    """A label file, or one entry of it, that is not of its format."""
    # Of a missing key and a wrong type, Python's own words alone would say nothing.
    own = isinstance(error, KeyError | IndexError | TypeError | AttributeError)
    reason = f"{type(error).__name__}: {error}" if own else str(error)
    return Problem("unreadable labels", path, f"{what} ({reason})", stem)


def stem_of(name: str) -> str:
    """The stem of an image that a label file names, by a path of Windows or any other.

    Some leave the suffix out, and what is behind a dot is part of the name then.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    known = path.suffix.lower() in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES)
    return _composed(path.stem if known else path.name)


def spelling(stem: str) -> str:
    """The same for stems that differ in capitals, and in the escapes of addresses, alone."""
    return unquote(stem).casefold()


def number(value: Any) -> float:
    """A finite number of a JSON file. Raises ValueError for everything else, texts of one too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    if not abs(value) < _TOO_LARGE:  # nor is NaN
        raise ValueError(f"{value!r} is no number that can be used")
    return float(value)


def _by_stem(paths: list[Path], what: str, problems: list[Problem]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        first = found.setdefault(_composed(path.stem), path)
        if first is not path:
            reason = f"another {what} has the same stem ({first.name})"
            problems.append(Problem("duplicate name", path, reason))
    return found


def _composed(name: str) -> str:
    """A name as most systems write it: those of macOS part letters from their accents."""
    return unicodedata.normalize("NFC", name)


def _is_empty(path: Path) -> bool:
    """Whether a file has no content; what cannot be opened is told where it is read."""
    try:
        return path.is_file() and path.stat().st_size == 0
    except OSError:
        return False

"""RTK, Road Traversing Knowledge: `image/` and `label/`, and a list of paths for each split."""

from functools import partial
from pathlib import Path, PureWindowsPath

from mtc_perception.datasets.layout import LayoutError
from mtc_perception.datasets.sample import BrokenFile, Problem
from mtc_perception.util.files import read_regular
from offline_compress.convert.frames import Frame, FrameLabels
from offline_compress.convert.label_images import read_ids

_BACKGROUND, _MARKING, _LAST = 0, 4, 12
"""Of the classes in codes.txt; all but the background are surfaces that are driven on."""
_LISTS = {"train": "trainpaths.txt", "val": "valpaths.txt"}


def frames(download: Path) -> list[Frame]:
    """The images of both lists. Raises LayoutError."""
    found = []
    for split, name in _LISTS.items():
        try:
            text = read_regular(download / name).decode()
        except (OSError, UnicodeDecodeError):
            raise LayoutError(
                f"{download / name} cannot be read: unpack RTK.zip there, with its folders image/ "
                f"and label/ and the lists {' and '.join(_LISTS.values())}"
            ) from None
        for line in filter(None, map(str.strip, text.splitlines())):
            file = PureWindowsPath(line).name  # reads paths of both kinds
            label = partial(_labels, download / "label" / file)
            found.append(Frame(split, Path(file).stem, download / "image" / file, label))
    return found


def _labels(path: Path, size: tuple[int, int]) -> FrameLabels:
    ids = read_ids(path, size)
    if ids.max() > _LAST:
        reason = f"class {ids.max()} is none of 0 to {_LAST}"
        raise BrokenFile(Problem("unexpected mask values", path, reason))
    return FrameLabels(drivable=ids != _BACKGROUND, lane=ids == _MARKING)

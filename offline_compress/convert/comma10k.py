"""comma10k: `imgs/` and `masks/` of the same names; images whose name ends in 9 validate."""

from functools import partial
from pathlib import Path

import numpy as np

from mtc_perception.datasets.layout import LayoutError
from offline_compress.convert.frames import Frame, FrameLabels
from offline_compress.convert.label_images import read_colours

_ROAD, _LANE = 0x402020, 0xFF0000
_OTHERS = (0x808060, 0x00FF66, 0xCC00FF, 0x00CCFF, 0x000000, 0xFFFFFF)
"""Undrivable, movable, the own car, movable in it, empty. What moves may be people: no boxes."""


def frames(download: Path) -> list[Frame]:
    """All images. Raises LayoutError if there are none."""
    found = [
        Frame(
            "val" if image.stem.endswith("9") else "train",
            image.stem,
            image,
            partial(_labels, download / "masks" / image.name),
        )
        for image in sorted((download / "imgs").glob("*.png"))
    ]
    if not found:
        raise LayoutError(f"{download} holds no imgs/*.png: give a clone of the repository")
    return found


def _labels(path: Path, size: tuple[int, int]) -> FrameLabels:
    colours = read_colours(path, size, (_ROAD, _LANE, *_OTHERS))
    return FrameLabels(drivable=np.isin(colours, (_ROAD, _LANE)), lane=colours == _LANE)

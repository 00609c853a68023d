"""The public data sets that are known by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from offline_compress.convert import (
    camvid,
    cityscapes,
    coco,
    comma10k,
    idd,
    kitti,
    rtk,
    vistas,
    yolo,
)
from offline_compress.convert.frames import Frame


@dataclass(frozen=True, slots=True)
class Kind:
    """One data set, and how its download is read."""

    title: str
    frames: Callable[[Path], list[Frame]] | None
    """None: its layout is read as it is."""


KINDS = {
    "bdd100k": Kind("BDD100K", None),
    "camvid": Kind("CamVid", camvid.frames),
    "cityscapes": Kind("Cityscapes", cityscapes.frames),
    "coco": Kind("COCO", coco.frames),
    "comma10k": Kind("comma10k", comma10k.frames),
    "idd": Kind("IDD", idd.frames),
    "kitti-object": Kind("KITTI's object benchmark", kitti.object_frames),
    "kitti-road": Kind("KITTI's road benchmark", kitti.road_frames),
    "mapillary": Kind("Mapillary Vistas", vistas.frames),
    "rtk": Kind("RTK", rtk.frames),
    "yolo": Kind("a data set of YOLO text files", yolo.frames),
}


def how_to_make(root: Path) -> str:
    """In words, how the data set that belongs to `root` comes there."""
    kind = KINDS.get(root.name)
    if kind is None:
        return "put there a data set of any layout in docs/data.md, or give its path"
    if kind.frames is None:
        return f"unpack {kind.title} there, docs/data.md says from where"
    command = f"mtc-compress convert {root.name} DOWNLOAD {root}"
    return f"get {kind.title}, docs/data.md says from where, then `{command}`"

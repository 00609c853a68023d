"""CamVid: 701 images of four drives and colour labels `<image>_L.png`, in any folders."""

from functools import partial
from pathlib import Path

import numpy as np

from mtc_perception.datasets.layout import LayoutError
from mtc_perception.datasets.split_files import IMAGE_SUFFIXES
from offline_compress.convert.frames import Frame, FrameLabels
from offline_compress.convert.label_images import boxes_of_components, read_colours

COLOURS = {
    "Animal": 0x408040,
    "Archway": 0xC00080,
    "Bicyclist": 0x0080C0,
    "Bridge": 0x008040,
    "Building": 0x800000,
    "Car": 0x400080,
    "CartLuggagePram": 0x4000C0,
    "Child": 0xC08040,
    "Column_Pole": 0xC0C080,
    "Fence": 0x404080,
    "LaneMkgsDriv": 0x8000C0,
    "LaneMkgsNonDriv": 0xC00040,
    "Misc_Text": 0x808040,
    "MotorcycleScooter": 0xC000C0,
    "OtherMoving": 0x804040,
    "ParkingBlock": 0x40C080,
    "Pedestrian": 0x404000,
    "Road": 0x804080,
    "RoadShoulder": 0x8080C0,
    "SUVPickupTruck": 0x4080C0,
    "Sidewalk": 0x0000C0,
    "SignSymbol": 0xC08080,
    "Sky": 0x808080,
    "TrafficCone": 0x000040,
    "TrafficLight": 0x004040,
    "Train": 0xC04080,
    "Tree": 0x808000,
    "Truck_Bus": 0xC080C0,
    "Tunnel": 0x400040,
    "VegetationMisc": 0xC0C000,
    "Void": 0x000000,
    "Wall": 0x40C000,
}
_BOXED = (
    *("Car", "SUVPickupTruck", "Truck_Bus", "Train", "MotorcycleScooter", "Bicyclist"),
    *("Pedestrian", "Child"),
)
_ROAD = [COLOURS["Road"], COLOURS["LaneMkgsDriv"]]
_LAST_OF_DUSK, _LAST_OF_VAL = "0001TP_008520", "Seq05VD_f02490"


def frames(download: Path) -> list[Frame]:
    """All labelled images. Raises LayoutError if there are none."""
    images = {
        path.stem: path
        for path in sorted(download.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.stem.endswith("_L")
    }
    found = [
        Frame(_split(stem), stem, images[stem], partial(_labels, label))
        for label in sorted(download.rglob("*_L.png"))
        if (stem := label.stem.removesuffix("_L")) in images
    ]
    if not found:
        raise LayoutError(
            f"{download} holds no image with its label, such as 0001TP_006690.png and "
            "0001TP_006690_L.png: unpack CamVid's images and labels there"
        )
    return found


def _split(stem: str) -> str:
    """Of the drive by dusk the first half trains; of Seq05VD the first half validates."""
    if stem.startswith("Seq05VD"):
        return "val" if stem <= _LAST_OF_VAL else "test"
    return "test" if stem.startswith("0001TP") and stem > _LAST_OF_DUSK else "train"


def _labels(path: Path, size: tuple[int, int]) -> FrameLabels:
    colours = read_colours(path, size, COLOURS.values())
    boxes = (boxes_of_components(colours == COLOURS[name], name) for name in _BOXED)
    return FrameLabels(
        drivable=np.isin(colours, _ROAD),
        lane=colours == COLOURS["LaneMkgsDriv"],
        boxes=tuple(box for found in boxes for box in found),
    )

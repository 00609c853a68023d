"""Miniatures of public downloads, laid out and coded as those are documented.

Every image is of WIDTH x HEIGHT. Its lower half is road, with a stripe of paint where paint is
labelled; where objects are, there is a vehicle at BOX, and beside it something that is none.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from support.mini_data import picture, write_png, write_text

WIDTH, HEIGHT = 96, 64
BOX = (10, 12, 30, 24)
ROAD = np.zeros((HEIGHT, WIDTH), bool)
ROAD[32:] = True
PAINT = np.zeros((HEIGHT, WIDTH), bool)
PAINT[32:, 44:52] = True
CAR = np.zeros((HEIGHT, WIDTH), bool)
CAR[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
PERSON = np.zeros((HEIGHT, WIDTH), bool)
PERSON[10:24, 60:64] = True


def layered(dtype: type, background: int, *layers: tuple[np.ndarray, int]) -> np.ndarray:
    pixels = np.full((HEIGHT, WIDTH), background, dtype)
    for mask, value in layers:
        pixels[mask] = value
    return pixels


def coloured(background: int, *layers: tuple[np.ndarray, int]) -> np.ndarray:
    """BGR of 0xRRGGBB values."""
    codes = layered(np.int64, background, *layers)
    return np.stack((codes & 255, codes >> 8 & 255, codes >> 16), -1).astype(np.uint8)


def photo(path: Path) -> None:
    write_png(path, picture(HEIGHT, WIDTH))


def camvid(root: Path) -> None:
    for stem in ("0001TP_006690", "0001TP_008550", "Seq05VD_f00000", "Seq05VD_f02520"):
        photo(root / "701_StillsRaw_full" / f"{stem}.png")
        colours = coloured(
            *(0x808080, (ROAD, 0x804080), (PAINT, 0x8000C0)),
            *((CAR, 0x400080), (PERSON, 0x404000)),
        )
        write_png(root / "LabeledApproved_full" / f"{stem}_L.png", colours)


def cityscapes(root: Path) -> None:
    for split, city in (("train", "aachen"), ("val", "lindau"), ("test", "berlin")):
        stem = f"{city}_000000_000019"
        photo(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        label = root / "gtFine" / split / city
        ids = layered(np.uint8, 23, (ROAD, 7), (CAR, 26), (PERSON, 24))
        write_png(label / f"{stem}_gtFine_labelIds.png", ids)
        group = np.zeros_like(CAR)
        group[10:30, 70:90] = True
        instances = layered(np.uint16, 23, (ROAD, 7), (CAR, 26000), (PERSON, 24), (group, 26))
        write_png(label / f"{stem}_gtFine_instanceIds.png", instances)


def idd_lite(root: Path) -> None:
    for split in ("train", "val"):
        photo(root / "leftImg8bit" / split / "100" / "178149_image.jpg")
        ids = layered(np.uint8, 6, (ROAD, 0), (CAR, 3))
        write_png(root / "gtFine" / split / "100" / "178149_label.png", ids)
        write_png(root / "gtFine" / split / "100" / "178149_inst_label.png", ids)


def idd(root: Path) -> None:
    x1, y1, x2, y2 = BOX
    objects = [
        {"label": "sky", "polygon": [[0, 0], [96, 0], [96, 64], [0, 64]]},
        {"label": "road", "polygon": [[0, 32], [95, 32], [95, 63], [0, 63]]},
        {"label": "autorickshaw", "polygon": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]},
        {"label": "sidewalk", "polygon": [[0, 60], [95, 60], [95, 63], [0, 63]]},
        {"label": "car", "polygon": [[1, 1], [9, 1], [9, 9]], "deleted": 1},
    ]
    for split in ("train", "val"):
        photo(root / "leftImg8bit" / split / "0" / "frame0029_leftImg8bit.jpg")
        write_text(
            root / "gtFine" / split / "0" / "frame0029_gtFine_polygons.json",
            {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects},
        )


def rtk(root: Path) -> None:
    for number in range(3):
        photo(root / "image" / f"00000000{number}.png")
        ids = layered(np.uint8, 0, (ROAD, 3), (PAINT, 4))
        write_png(root / "label" / f"00000000{number}.png", ids)
    write_text(root / "codes.txt", "id,class\n0,background\n")
    write_text(root / "trainpaths.txt", "image\\000000000.png\nimage\\000000002.png\n")
    write_text(root / "valpaths.txt", "image/000000001.png\n")


def kitti_road(root: Path) -> None:
    for number in range(5):
        photo(root / "training" / "image_2" / f"um_00000{number}.png")
        labels = root / "training" / "gt_image_2"
        colours = coloured(0xFF0000, (ROAD, 0xFF00FF))
        write_png(labels / f"um_road_00000{number}.png", colours)
        write_png(labels / f"um_lane_00000{number}.png", coloured(0xFF0000))


def kitti_object(root: Path) -> None:
    lines = [
        "Car 0.00 0 1.55 10.00 12.00 30.00 24.00 1.57 1.73 4.15 1.00 1.75 13.22 1.62",
        "DontCare -1 -1 -10 70.00 10.00 90.00 30.00 -1 -1 -1 -1000 -1000 -1000 -10",
        "Pedestrian 0.00 0 -0.20 60.00 10.00 64.00 24.00 1.89 0.48 1.20 1.84 1.47 8.41 0.01",
    ]
    for number in range(5):
        photo(root / "training" / "image_2" / f"00000{number}.png")
        write_text(root / "training" / "label_2" / f"00000{number}.txt", "\n".join(lines))


def comma10k(root: Path) -> None:
    for name in ("0000_0085e9e41513078a_2018-08-19--13-26-08_11_864.png", "0009_9.png"):
        photo(root / "imgs" / name)
        colours = coloured(0x808060, (ROAD, 0x402020), (PAINT, 0xFF0000), (CAR, 0x00FF66))
        write_png(root / "masks" / name, colours)


def mapillary(root: Path) -> None:
    names = [
        "construction--flat--road",
        "marking--continuous--dashed",
        "marking-only--discrete--text",
        "nature--sky",
        "object--vehicle--car",
        "human--person--individual",
    ]
    write_text(root / "config_v2.0.json", {"labels": [{"name": name} for name in names]})
    instances = layered(
        *(np.uint16, 3 << 8, (ROAD, 0), (PAINT, 1 << 8), (CAR, (4 << 8) + 1)),
        (PERSON, 5 << 8),
    )
    for folder in ("training", "validation"):
        photo(root / folder / "images" / "a1.jpg")
        write_png(root / folder / "v2.0" / "instances" / "a1.png", instances)


def coco(root: Path) -> None:
    for split in ("train2017", "val2017"):
        photo(root / split / "000000000001.jpg")
        photo(root / split / "000000000002.jpg")
        x1, y1, x2, y2 = BOX
        boxes = [(3, [x1, y1, x2 - x1, y2 - y1]), (1, [60, 10, 4, 14]), (2, [70, 10, 20, 20])]
        content = {
            "images": [{"id": n, "file_name": f"00000000000{n}.jpg"} for n in (1, 2)],
            "annotations": [
                {"id": n, "image_id": 1, "category_id": kind, "bbox": box, "iscrowd": 0}
                for n, (kind, box) in enumerate(boxes)
            ],
            "categories": [
                {"id": 1, "name": "person", "supercategory": "person"},
                {"id": 2, "name": "bicycle", "supercategory": "vehicle"},
                {"id": 3, "name": "car", "supercategory": "vehicle"},
            ],
        }
        write_text(root / "annotations" / f"instances_{split}.json", content)


def yolo(root: Path) -> None:
    write_text(
        root / "data.yaml",
        "path: ../data\ntrain: images/train\nval: images/val\nnames: {0: person, 1: car}\n",
    )
    for split in ("train", "val"):
        photo(root / "images" / split / "a.jpg")
        photo(root / "images" / split / "b.jpg")
        x1, y1, x2, y2 = BOX
        centre = f"{(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT}"
        outline = " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in ((60, 10), (64, 10), (62, 24)))
        lines = [f"1 {centre} {(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}", f"0 {outline}"]
        write_text(root / "labels" / split / "a.txt", "\n".join(lines))


DOWNLOADS: dict[str, Callable[[Path], None]] = {
    "camvid": camvid,
    "cityscapes": cityscapes,
    "coco": coco,
    "comma10k": comma10k,
    "idd": idd_lite,
    "kitti-object": kitti_object,
    "kitti-road": kitti_road,
    "mapillary": mapillary,
    "rtk": rtk,
    "yolo": yolo,
}


def spoil(path: Path) -> None:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def size_of(path: Path) -> tuple[int, int]:
    return tuple(cv2.imread(str(path)).shape[:2])

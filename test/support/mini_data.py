"""Miniature data sets of every layout: two images a and b of 64x36, a car in a, nothing in b.

In all of them the lower half of `a` is drivable and a lane runs down its middle; `c` of the train
split has no label at all. The right answers are DRIVABLE, BOX and the columns LANE_X.
"""

import json
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 64, 36
BOX = [8.0, 9.0, 24.0, 18.0]
LANE_X = slice(30, 34)
DRIVABLE = np.zeros((HEIGHT, WIDTH), bool)
DRIVABLE[18:] = True
LANE = np.zeros((HEIGHT, WIDTH), bool)
LANE[18:, LANE_X] = True
ATTRIBUTES = {"weather": "clear", "scene": "highway", "timeofday": "night"}
AREA = [[0, 18], [64, 18], [64, 36], [0, 36]]


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def write_text(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def picture(height: int, width: int) -> np.ndarray:
    """Smooth colours without two places alike."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 8, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def write_images(folder: Path) -> None:
    for stem in "abc":
        write_png(folder / f"{stem}.jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))


def write_masks(drivable: Path, lane: Path, foreground: int = 255) -> None:
    """Masks of `a`, and empty ones of `b`."""
    for folder, mask in ((drivable, DRIVABLE), (lane, LANE)):
        write_png(folder / "a.png", mask.astype(np.uint8) * foreground)
        write_png(folder / "b.png", np.zeros((HEIGHT, WIDTH), np.uint8))


def box2d(box: list[float]) -> dict[str, float]:
    return dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))


def scalabel_labels() -> list[dict]:
    return [
        {"category": "car", "box2d": box2d(BOX), "attributes": {"occluded": True}},
        {"category": "pedestrian", "box2d": box2d([1, 1, 3, 5])},
        {"category": "traffic sign", "box2d": box2d([1, 1, 3, 5])},
        {"category": "bus", "box2d": box2d([40, 2, 50, 9]), "attributes": {"crowd": True}},
        {"category": "trailer", "box2d": box2d([50, 2, 60, 9])},
    ]


def bdd100k(root: Path, split: str = "train", masks: bool = True) -> Path:
    """The release: det_20, and the two mask downloads, or their polygons."""
    write_images(root / "images/100k" / split)
    labels = root / "labels"
    frames = [
        {"name": "a.jpg", "attributes": ATTRIBUTES, "labels": scalabel_labels()},
        {"name": "b.jpg", "attributes": {**ATTRIBUTES, "weather": "rainy"}, "labels": None},
    ]
    write_text(labels / f"det_20/det_{split}.json", frames)
    if masks:
        areas = np.full((HEIGHT, WIDTH), 2, np.uint8)
        areas[18:27] = 0
        areas[27:] = 1
        lanes = np.full((HEIGHT, WIDTH), 255, np.uint8)
        lanes[18:27, LANE_X] = 0b0010_0110  # single white, across, solid
        lanes[27:, LANE_X] = 0b0001_0000  # crosswalk, along, dashed
        lanes[18:, 60:] = 4  # road curb
        for stem, area, lane in (("a", areas, lanes), ("b", areas * 0 + 2, lanes * 0 + 255)):
            write_png(labels / "drivable/masks" / split / f"{stem}.png", area)
            write_png(labels / "lane/masks" / split / f"{stem}.png", lane)
        return root
    area = {"category": "direct", "poly2d": [{"vertices": AREA, "types": "LLLL", "closed": True}]}
    line = {"vertices": [[32, 20], [32, 32]], "types": "LL", "closed": False}
    lanes = [
        {"category": "single white", "poly2d": [line]},
        {"category": "road curb", "poly2d": [{**line, "vertices": [[2, 20], [2, 32]]}]},
    ]
    for task, found in (("drivable", [area]), ("lane", lanes)):
        frames = [{"name": "a.jpg", "labels": found}, {"name": "b.jpg"}]
        # One of them as a plain list, the other one as newer exports are.
        content = frames if task == "lane" else {"frames": frames}
        write_text(labels / task / f"polygons/{task}_{split}.json", content)
    return root


def objects_2018() -> list[dict]:
    """Labels as in the 2018 release's files of one image, which YOLOP uses."""
    lane = [[32, 20, "L"], [32, 32, "L"]]
    return [
        {"category": "car", "box2d": box2d(BOX), "attributes": {"occluded": False}},
        {"category": "person", "box2d": box2d([1, 1, 3, 5])},
        {"category": "area/drivable", "poly2d": [[x, y, "L"] for x, y in AREA]},
        {"category": "lane/single white", "poly2d": lane, "attributes": {"direction": "parallel"}},
        {"category": "lane/road curb", "poly2d": [[2, 20, "L"], [2, 32, "L"]]},
    ]


def files_2018(folder: Path) -> None:
    for stem, objects in (("a", objects_2018()), ("b", [])):
        content = {"name": stem, "attributes": ATTRIBUTES, "frames": [{"objects": objects}]}
        write_text(folder / f"{stem}.json", content)


def bdd100k_2018(root: Path, split: str = "train") -> Path:
    """Images and the 2018 labels, one file per image."""
    write_images(root / "images/100k" / split)
    files_2018(root / "labels/100k" / split)
    return root


def bdd100k_2018_combined(root: Path, split: str = "train") -> Path:
    """Images and the 2018 labels, one file for all."""
    write_images(root / "images/100k" / split)
    lane = {"vertices": [[32, 20], [32, 32]], "types": "LL", "closed": False}
    labels = [
        {"category": "car", "box2d": box2d(BOX)},
        {"category": "lane", "poly2d": [lane], "attributes": {"laneTypes": "single yellow"}},
        {"category": "lane", "poly2d": [lane], "attributes": {"laneTypes": "road curb"}},
        {
            "category": "drivable area",
            "poly2d": [{"vertices": AREA, "types": "LLLL", "closed": True}],
            "attributes": {"areaType": "alternative"},
        },
    ]
    frames = [
        {"name": "a.jpg", "attributes": ATTRIBUTES, "labels": labels},
        {"name": "b.jpg", "attributes": ATTRIBUTES, "labels": []},
    ]
    write_text(root / f"labels/bdd100k_labels_images_{split}.json", frames)
    return root


def yolop(root: Path, split: str = "train") -> Path:
    write_images(root / "images" / split)
    files_2018(root / "det_annotations" / split)
    write_masks(root / "da_seg_annotations" / split, root / "ll_seg_annotations" / split, 127)
    return root


def text_labels(folder: Path, vehicle: int, *others: int) -> None:
    x1, y1, x2, y2 = BOX
    numbers = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
    line = " ".join(map(str, numbers))
    write_text(folder / "a.txt", "\n".join(f"{kind} {line}" for kind in (vehicle, *others)))
    write_text(folder / "b.txt", "")


def a_yolom(root: Path, split: str = "train") -> Path:
    write_images(root / "images" / split)
    text_labels(root / "detection-object/labels" / split, 2, 0, 7)
    write_masks(root / "seg-drivable-10/labels" / split, root / "seg-lane-11/labels" / split, 1)
    return root


def rmt_ppad(root: Path, split: str = "train") -> Path:
    write_images(root / "images" / split)
    text_labels(root / "labels" / split, 0)
    write_masks(root / "mask/drivable" / split, root / "mask/lane" / split)
    return root


def project(root: Path, split: str = "train") -> Path:
    write_images(root / "images" / split)
    write_masks(root / "drivable" / split, root / "lane" / split)
    x1, y1, x2, y2 = BOX
    coco = {
        "images": [{"id": i, "file_name": f"{stem}.jpg"} for i, stem in enumerate("ab")],
        "annotations": [{"id": 1, "image_id": 0, "bbox": [x1, y1, x2 - x1, y2 - y1]}],
        "categories": [{"id": 1, "name": "vehicle"}],
    }
    write_text(root / f"det/{split}.json", coco)
    return root

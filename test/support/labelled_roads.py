"""Data sets written label by label, and a road that the toy bundle answers exactly.

In the toy network (see toy_bundle.py) drivable is the red channel, lane the green one, and box k
the top-left part of the input scaled by m / (k + 1), with m the mean of all bytes / 255.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH = 96, 160


class DataSet:
    """A data set on disk, written sample by sample."""

    def __init__(self, root: Path, split: str = "val") -> None:
        self.root, self.split = root, split
        self._coco: dict = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "vehicle"}],
        }

    def add(
        self,
        stem: str,
        rgb: np.ndarray,
        drivable: np.ndarray | None = None,
        lane: np.ndarray | None = None,
        boxes: Iterable[Iterable[float]] | None = None,
        crowd: bool = False,
    ) -> None:
        self._write("images", stem, rgb[..., ::-1])
        for task, mask in (("drivable", drivable), ("lane", lane)):
            if mask is not None:
                self._write(task, stem, mask.astype(np.uint8) * 255)
        if boxes is None:
            return
        image = len(self._coco["images"]) + 1
        self._coco["images"].append({"id": image, "file_name": f"{stem}.png"})
        for x1, y1, x2, y2 in boxes:
            self._coco["annotations"].append(
                {
                    "id": len(self._coco["annotations"]) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": [float(v) for v in (x1, y1, x2 - x1, y2 - y1)],
                    "iscrowd": int(crowd),
                }
            )
        (self.root / "det").mkdir(exist_ok=True)
        (self.root / "det" / f"{self.split}.json").write_text(json.dumps(self._coco))

    def _write(self, folder: str, stem: str, pixels: np.ndarray) -> None:
        path = self.root / folder / self.split
        path.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path / f"{stem}.png"), pixels)


def road() -> tuple[np.ndarray, np.ndarray, np.ndarray, list[float]]:
    """An image at network size with what the toy network answers: drivable, lane and first box."""
    rgb = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    rgb[48:, :, 0] = 255
    rgb[:, 40:60, 1] = 255
    mean = float(rgb.mean()) / 255
    return rgb, rgb[..., 0] > 0, rgb[..., 1] > 0, [0, 0, WIDTH * mean, HEIGHT * mean]

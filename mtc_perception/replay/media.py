"""Recordings that are no bags: video files, and image folders with or without labels."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.metrics import GroundTruth
from mtc_perception.replay.frames import (
    NS_PER_S,
    EncodedPixels,
    RawPixels,
    SourceError,
    SourceFrame,
    SourceInfo,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
DEFAULT_FOLDER_FPS = 30.0


class VideoSource:
    """A video file, decoded by OpenCV to bgr8."""

    def __init__(self, path: Path, fps: float | None = None) -> None:
        """`fps` overrides the file's own frame rate. Raises SourceError."""
        self._path = path
        capture = self._open()
        rate_hz = fps or float(capture.get(cv2.CAP_PROP_FPS))
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        if not (math.isfinite(rate_hz) and rate_hz > 0):
            raise SourceError(f"{path} does not say its frame rate; give it with --fps")
        self.info = SourceInfo(path.name, "video", None, max(frames, 0), rate_hz)

    def frames(self) -> Iterator[SourceFrame]:
        capture = self._open()
        try:
            index = 0
            while True:
                more, pixels = capture.read()
                if not more:
                    break
                height, width = pixels.shape[:2]
                raw = RawPixels("bgr8", height, width, 3 * width, pixels.reshape(-1))
                yield SourceFrame(index, _stamp_ns(index, self.info.rate_hz), raw)
                index += 1
        finally:
            capture.release()
        if index == 0:
            raise SourceError(f"{self._path}: no frame of this video can be decoded")

    def truths(self) -> Iterator[tuple[int, GroundTruth]]:
        return iter(())

    def _open(self) -> Any:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise SourceError(f"{self._path} is neither a bag nor a video that OpenCV can read")
        return capture


class FolderSource:
    """The JPEG and PNG files of a folder, by name.

    A folder `<root>/images/<split>` is a data set: its labels are looked for in
    `<root>/drivable/<split>`, `<root>/lane/<split>` and `<root>/det/<split>.json`. A label file
    that is not there means unlabelled.
    """

    def __init__(self, path: Path, fps: float | None = None) -> None:
        """Raises SourceError if there is no image."""
        self._files = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        )
        if not self._files:
            splits = [str(split) for split in sorted(path.glob("images/*")) if split.is_dir()]
            mend = f"give {' or '.join(splits)}" if splits else "give a folder that does"
            raise SourceError(
                f"{path} holds neither images ({', '.join(IMAGE_SUFFIXES)}) nor a bag "
                f"(metadata.yaml): {mend}"
            )
        rate_hz = fps or DEFAULT_FOLDER_FPS
        self.info = SourceInfo(path.name, "images", None, len(self._files), rate_hz)
        path = path.resolve()
        self._split = path.name
        self._root = path.parent.parent if path.parent.name == "images" else None

    def frames(self) -> Iterator[SourceFrame]:
        for index, file in enumerate(self._files):
            kind = "png" if file.suffix.lower() == ".png" else "jpeg"
            pixels = EncodedPixels(kind, file.read_bytes())
            yield SourceFrame(index, _stamp_ns(index, self.info.rate_hz), pixels)

    def truths(self) -> Iterator[tuple[int, GroundTruth]]:
        if self._root is None:
            return
        detections = _read_coco(self._root / "det" / f"{self._split}.json")
        for index, file in enumerate(self._files):
            boxes, ignore = detections.get(file.stem, (None, None))
            truth = GroundTruth(
                boxes, ignore, self._mask("drivable", file.stem), self._mask("lane", file.stem)
            )
            if any(part is not None for part in (truth.boxes, truth.drivable, truth.lane)):
                yield _stamp_ns(index, self.info.rate_hz), truth

    def _mask(self, task: str, stem: str) -> npt.NDArray[np.bool_] | None:
        assert self._root is not None
        file = self._root / task / self._split / f"{stem}.png"
        if not file.is_file():
            return None
        pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            raise SourceError(f"{file}: not a readable image")
        return np.asarray(pixels > 127)


_Boxes = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]


def _read_coco(path: Path) -> dict[str, _Boxes]:
    """Boxes [n, 4] x1, y1, x2, y2 and ignore flags [n] by image stem; COCO crowds are ignored."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
        boxes: dict[Any, list[list[float]]] = {image: [] for image in stems}
        crowds: dict[Any, list[bool]] = {image: [] for image in stems}
        for annotation in content["annotations"]:
            x, y, width, height = (float(value) for value in annotation["bbox"])
            boxes[annotation["image_id"]].append([x, y, x + width, y + height])
            crowds[annotation["image_id"]].append(bool(annotation.get("iscrowd", 0)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path}: not a COCO file ({type(error).__name__}: {error})") from None
    return {
        stem: (
            np.array(boxes[image], np.float32).reshape(-1, 4),
            np.array(crowds[image], np.bool_),
        )
        for image, stem in stems.items()
    }


def _stamp_ns(index: int, rate_hz: float) -> int:
    return round(index * NS_PER_S / rate_hz)

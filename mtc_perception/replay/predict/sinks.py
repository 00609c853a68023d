"""Where answers go: pictures, videos, masks and lines of JSON in a folder."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.overlay import draw_overlay
from mtc_perception.core.perception import Perception
from mtc_perception.pages.pictures import Rgb, jpeg, shrink
from mtc_perception.replay.predict.inputs import Input
from mtc_perception.replay.recordings.recording import NS_PER_S
from mtc_perception.replay.stream.lockstep import ReplayedImage
from mtc_perception.replay.stream.video_file import VideoFile

LINES = "predictions.jsonl"
MASKS = "masks"
_LONGEST_STILL_S = 2.0
"""What a camera that sends nothing for a while lasts in its video."""
_QUALITY = 95


class Pictures:
    """The images of one input, drawn: a file each, or one video where they are of one camera."""

    def __init__(self, folder: Path, of: Input, classes: list[str]) -> None:
        self._folder, self._of, self._classes = folder, of, classes
        self._video = VideoFile(folder, of.name, of.rate_hz) if of.rate_hz else None
        self._shown = 0

    def add(self, name: str, rgb: Rgb, perception: Perception | None, stamp_ns: int) -> Rgb:
        """Write one picture and return it; without an answer it is the image itself.

        Raises ReplayError where no video can be written.
        """
        picture = rgb
        if perception is not None:
            picture = draw_overlay(rgb, perception, self._classes)
        if self._video is None:
            (self._folder / f"{name}.jpg").write_bytes(jpeg(picture, _QUALITY))
            return picture
        even = shrink(picture, picture.shape[1])
        for _ in range(self._times(stamp_ns)):
            self._video.write(even)
        return picture

    def _times(self, stamp_ns: int) -> int:
        """How often an image is in the video, so that one of a live camera lasts as long as it."""
        if not self._of.live or self._of.rate_hz is None:
            return 1
        due = round(stamp_ns / NS_PER_S * self._of.rate_hz) + 1
        times = min(max(due - self._shown, 0), round(_LONGEST_STILL_S * self._of.rate_hz))
        self._shown = max(due, self._shown)
        return times

    def close(self) -> None:
        """Complete the video."""
        if self._video is not None:
            self._video.close()


class Lines:
    """`predictions.jsonl`: a line for each image, whatever became of it."""

    def __init__(self, folder: Path, classes: list[str]) -> None:
        self._file: TextIO = (folder / LINES).open("w", encoding="utf-8")
        self._classes = classes

    def add(self, of: Input, name: str, replayed: ReplayedImage, masks: Mapping[str, str]) -> None:
        """Write the line of one image; `masks` are the files of its masks by task."""
        frame = replayed.labelled.frame
        line: dict[str, Any] = {"input": of.name, "index": frame.index, "name": name}
        if of.files:
            line["file"] = str(of.files[frame.index])
        if of.rate_hz:
            line["stamp_s"] = round(frame.stamp_ns / NS_PER_S, 6)
        perception = replayed.perception
        if perception is None:
            line["error"] = replayed.reason
        else:
            height, width = perception.size
            line |= {"width": width, "height": height}
            if "detection" in perception.tasks:
                line["objects"] = self._objects(perception)
            line["cover"] = {task: _part(mask) for task, mask in _masks(perception)}
            line["ms"] = {stage: round(value, 2) for stage, value in replayed.latency_ms.items()}
            if masks:
                line["masks"] = dict(masks)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()  # whoever reads along sees it at once

    def close(self) -> None:
        """Complete the file."""
        self._file.close()

    def _objects(self, perception: Perception) -> list[dict[str, Any]]:
        return [
            {
                "class": self._classes[int(label)],
                "score": round(float(score), 4),
                "box": [round(float(edge), 2) for edge in box],
            }
            for box, score, label in zip(
                perception.boxes, perception.scores, perception.labels, strict=True
            )
        ]


def write_masks(folder: Path, name: str, perception: Perception) -> dict[str, str]:
    """Write the masks as PNG files, 0 or 255; their places in `folder` by task."""
    (folder / MASKS).mkdir(exist_ok=True)
    places = {}
    for task, mask in _masks(perception):
        places[task] = f"{MASKS}/{name}_{task}.png"
        _, data = cv2.imencode(".png", mask)
        (folder / places[task]).write_bytes(data.tobytes())
    return places


def _masks(perception: Perception) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """The masks of the tasks that the network has."""
    for task, mask in (("drivable", perception.drivable), ("lane", perception.lane)):
        if mask is not None:
            yield task, mask


def _part(mask: npt.NDArray[np.uint8]) -> float:
    """Part of an image that a mask covers, 0 to 1."""
    return round(cv2.countNonZero(mask) / max(mask.size, 1), 5)

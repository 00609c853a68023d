"""A short recording with labels, whose answers by the toy bundle (toy_bundle.py) are known."""

from pathlib import Path

import cv2
import numpy as np

from mtc_perception.core.truth import GroundTruth
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.recordings.recording import EncodedPixels
from mtc_perception.replay.recordings.writer import START_NS, new_bag
from mtc_perception.replay.run.evaluation import evaluate_run
from mtc_perception.replay.run.runners import run_serial

WIDTH, HEIGHT, IMAGES, PERIOD_NS = 160, 96, 24, 100_000_000
FRAME_ID = "front_camera"
IMAGE_TOPIC = "/camera/image_raw/compressed"
WORST = 17
"""Image whose labelled drivable area is the other half."""


def rgb(index: int) -> np.ndarray:
    """The left half is red (drivable), a strip of it green (lane)."""
    picture = np.full((HEIGHT, WIDTH, 3), 40 + index, np.uint8)
    picture[:, : WIDTH // 2, 0] = 255
    picture[:, 20:30, 1] = 255
    return picture


def truth(index: int) -> GroundTruth:
    drivable = np.zeros((HEIGHT, WIDTH), np.bool_)
    drivable[:, : WIDTH // 2] = index != WORST
    drivable[:, WIDTH // 2 :] = index == WORST
    lane = np.zeros((HEIGHT, WIDTH), np.bool_)
    lane[:, 20:32] = True
    boxes = np.array([[0, 0, 60, 36], [100, 50, 150, 90]], np.float32)
    return GroundTruth(boxes, np.array([False, True]), drivable, lane)


def png(index: int) -> bytes:
    return cv2.imencode(".png", rgb(index)[..., ::-1])[1].tobytes()


def write_drive(bag: Path) -> Path:
    with new_bag(bag, {"made_by": "a test"}) as writer:
        for index in range(IMAGES):
            stamp_ns = START_NS + index * PERIOD_NS
            writer.image(IMAGE_TOPIC, stamp_ns, FRAME_ID, EncodedPixels("png", png(index)))
            writer.truth(stamp_ns, FRAME_ID, truth(index))
    return bag


class Silent:
    """Watches a run and says nothing."""

    def planned(self, *_: object) -> None: ...

    def __call__(self, *_: object) -> None: ...


def evaluate(
    recording: Path,
    bundle: Path,
    run: Path,
    *,
    annotate: bool = False,
    video: bool = False,
    labels: Path | None = None,
) -> Path:
    """The folder of a run of `recording` through `bundle`."""
    options = ReplayOptions(
        bundle=bundle, engine="onnxruntime", threads=1, annotate=annotate, video=video
    )
    evaluate_run([Recording(path=recording, labels=labels)], options, run, run_serial, Silent())
    return run

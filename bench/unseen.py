"""`python -m bench.unseen NETWORK... --data ROOT`: what goes wrong on cameras that are new.

A bonnet is painted into every image, of shapes and colours that the augmentation does not have
(`data/bonnet.py`): how much of it is called road or paint, and how many boxes lie on it. In the
images as they are: how many vehicles of each height are found. Every network sees the same images.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bench.common import ends_in_one_line, tracked, write_result
from mtc_perception.core.class_map import VEHICLE_CLASSES
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.perception import threshold_level
from mtc_perception.datasets.layout import Sample, read_image, read_truth
from mtc_perception.metrics.detection import DetectionMetric
from mtc_perception.metrics.tasks import FINE_SWEEP, best_threshold
from mtc_perception.util.errors import UserError
from offline_compress.data.bonnet import MOST_HIDDEN
from offline_compress.data.labelled import evenly, labelled_sets
from offline_compress.evaluation.accuracy import RawPerception, infer
from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS, Subject, open_subject
from offline_compress.quantization.assess import FP32
from offline_compress.recipe.parts import DataSource

NAME = "unseen"
HEIGHTS_PX = (5, 8, 16, 32)
"""Of boxes in the network's input: the least of each range."""
WAIST, SIDE = (0.1, 0.28), (0.0, 0.12)
"""Of the image: heights of a bonnet at its middle and at the image's sides; the augmentation's
reach 0.2."""

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def painted(image: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
    """The image [H, W, 3] with a bonnet, and which pixels that hides.

    It has corners and a scoop where the augmentation's are arches or lines, any colour from asphalt
    to red where those are near grey, and mirrors the scene sharply.
    """
    height, width = image.shape[:2]
    x = (np.arange(width) + 0.5) / width
    corners = [0, rng.uniform(0.05, 0.3), rng.uniform(0.7, 0.95), 1]
    left, right = rng.uniform(*SIDE, 2)
    waist = rng.uniform(*WAIST)
    share = np.interp(x, corners, [left, waist, waist, right])
    share += 0.04 * (np.abs(x - rng.uniform(0.3, 0.7)) < rng.uniform(0.05, 0.15))
    hidden = np.arange(height)[:, None] >= height * (1 - share)
    tone = np.array([[[rng.integers(180), rng.integers(256), rng.integers(40, 256)]]])
    colour = cv2.cvtColor(tone.astype(np.uint8), cv2.COLOR_HSV2RGB)
    mirrored = rng.uniform(0.1, 0.5)
    surface = (1 - mirrored) * colour + mirrored * image[::-1]
    return np.where(hidden[..., None], surface, image).astype(np.uint8), hidden


def lie_on(boxes: NDArray[np.float32], hidden: Mask) -> Mask:
    """Which of the boxes [n, 4] lie on what is hidden [H, W]: training asks for none of them, as a
    vehicle that is hidden by more is one to ignore there."""
    before = cv2.integral(hidden.astype(np.uint8))
    x1, y1, x2, y2 = np.round(boxes).astype(int).T
    inside = before[y2, x2] - before[y1, x2] - before[y2, x1] + before[y1, x1]
    lying: Mask = inside > MOST_HIDDEN * (x2 - x1) * (y2 - y1)
    return lying


class Faults:
    """What one network does wrong on the images of one data set."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        _, height, width, _ = subject.engine.input.shape
        self._input = height, width
        self._hidden = 0
        self._called = {"road": 0, "paint": 0}
        self._on_bonnets: list[NDArray[np.float32]] = []
        """Scores of each image."""
        self._all = DetectionMetric(subject.max_detections)
        self._by_height = {least: DetectionMetric(subject.max_detections) for least in HEIGHTS_PX}

    def add(self, sample: Sample, rng: np.random.Generator) -> None:
        """Count an image, as it is and with a bonnet. Raises LayoutError."""
        image = read_image(sample.image_path)
        self._add_bonnet(*painted(image, rng))
        size = image.shape[0], image.shape[1]
        truth = read_truth(sample, size)
        if truth.boxes is None:
            return
        found = self._infer(image)
        objects = VEHICLE_CLASSES.objects(truth)
        self._all.update(found.boxes, found.scores, objects.boxes, objects.ignore)
        letterbox = Letterbox.fit(*size, *self._input, self._subject.fit)
        heights = (objects.boxes[:, 3] - objects.boxes[:, 1]) * letterbox.scale_y
        ranges = np.searchsorted(HEIGHTS_PX, heights, side="right") - 1
        for number, metric in enumerate(self._by_height.values()):
            others = objects.ignore | (ranges != number)
            metric.update(found.boxes, found.scores, objects.boxes, others)

    def _add_bonnet(self, image: Image, hidden: Mask) -> None:
        found = self._infer(image)
        if found.drivable is None or found.lane is None:
            raise UserError(f"{self._subject.identity['name']} lacks a mask")
        self._hidden += int(hidden.sum())
        thresholds = CHECKPOINT_THRESHOLDS
        road = found.drivable >= threshold_level(thresholds.drivable)
        paint = found.lane >= threshold_level(thresholds.lane)
        for name, called in (("road", road), ("paint", paint)):
            self._called[name] += int((called & hidden).sum())
        self._on_bonnets.append(found.scores[lie_on(found.boxes, hidden)])

    def _infer(self, image: Image) -> RawPerception:
        return infer(
            self._subject.engine,
            SourceImage(image, "rgb"),
            self._subject.max_detections,
            self._subject.fit,
        )

    def row(self) -> dict[str, Any]:
        """Fractions in 0..1; vehicles at the score of the best F1, where any are labelled."""
        score = CHECKPOINT_THRESHOLDS.score
        vehicles = None
        if self._all.objects:
            score = best_threshold(FINE_SWEEP, self._all.sweep(FINE_SWEEP)["f1"]) or score
            vehicles = {
                "precision": _at(self._all, score, "precision"),
                "recall": _at(self._all, score, "recall"),
                "by_height": [
                    {
                        "from_px": least,
                        "objects": metric.objects,
                        "recall": _at(metric, score, "recall"),
                    }
                    for least, metric in self._by_height.items()
                ],
            }
        boxes = sum(int((scores >= np.float32(score)).sum()) for scores in self._on_bonnets)
        return {
            "score_threshold": score,
            **{f"called_{name}": count / self._hidden for name, count in self._called.items()},
            "boxes_per_image": boxes / len(self._on_bonnets),
            "vehicles": vehicles,
        }


def _at(metric: DetectionMetric, score: float, name: str) -> float | None:
    value = float(metric.sweep([score])[name][0])
    return None if np.isnan(value) else value


def unseen(
    networks: Sequence[Path], roots: Sequence[Path], images: int | None, console: Console
) -> dict[str, Any]:
    """What `results/unseen.json` holds, of so many `images` of each set at even distances (None:
    all). Raises UserError."""
    sources = [DataSource(root=root, split="val") for root in roots]
    sets = {
        name: evenly(samples, images or len(samples))
        for name, samples in labelled_sets(sources, "score").items()
    }
    found: dict[str, Any] = {}
    for path in networks:
        subject = open_subject(path, precision=FP32)
        rows = {}
        for name, samples in sets.items():
            faults = Faults(subject)
            for number, sample in enumerate(tracked(samples, f"{path}, {name}", console)):
                faults.add(sample, np.random.default_rng(number))
            rows[name] = faults.row()
        found[str(path)] = {"sha256": subject.identity["sha256"], "sets": rows}
    return {"images": {name: len(one) for name, one in sets.items()}, "networks": found}


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m bench.unseen", description=__doc__)
    parser.add_argument("networks", type=Path, nargs="+", help="bundles and checkpoints")
    parser.add_argument("--data", type=Path, action="append", required=True, metavar="ROOT")
    parser.add_argument("--images", type=int, help="of each set, evenly spread (all)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    console = Console()
    content = unseen(options.networks, options.data, options.images, console)
    console.print_json(data=content["networks"])
    console.print(f"wrote {write_result(options.results, NAME, content)}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Training samples: drawn by weight from several data sets, augmented, stacked into batches.

The k-th sample of a run depends on the seed and k alone, whatever the number of workers and
wherever the run was interrupted.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from rich.console import Console
from torch.utils.data import Dataset

from mtc_perception.datasets.layout import (
    BrokenFile,
    LayoutError,
    Sample,
    read_image,
    read_truth,
)
from offline_compress.data.augment import LabelledImage, augment
from offline_compress.data.bonnet import with_bonnet
from offline_compress.data.cache import DecodedImages, memory_budget_bytes
from offline_compress.data.fragments import fragments
from offline_compress.data.labelled import labelled_split
from offline_compress.data.mosaic import mosaic
from offline_compress.data.targets import IGNORE
from offline_compress.recipe.parts import DataSource, SizePx


def load_labelled(sample: Sample, boxes_of_masks: bool = False) -> LabelledImage:
    """Decode one sample; a task without labels becomes all-IGNORE. Raises LayoutError.

    `boxes_of_masks`: what may be a piece of a vehicle becomes an ignore region.
    """
    image = read_image(sample.image_path)
    size = image.shape[:2]
    truth = read_truth(sample, size)
    if truth.boxes is None or truth.ignore is None:
        boxes, kinds = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    else:
        ignored = truth.ignore
        if boxes_of_masks:
            ignored = ignored | fragments(truth.boxes, *size)
        boxes, kinds = truth.boxes, np.where(ignored, -2, 0)
    drivable, lane = (
        np.full(size, IGNORE, np.uint8) if mask is None else mask.astype(np.uint8)
        for mask in (truth.drivable, truth.lane)
    )
    return LabelledImage(image, boxes, kinds, truth.boxes is not None, drivable, lane)


class BrokenSample(LayoutError):
    """A file of the training set that does not decode."""

    def __init__(self, message: str) -> None:
        # A DataLoader raises a worker's exception again with the whole traceback as its message.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[-1].strip())


class TrainingSet(Dataset[LabelledImage]):
    """Map from the running number of a sample to its augmented crop."""

    def __init__(
        self,
        sources: Sequence[DataSource],
        deployed: SizePx,
        crop: SizePx,
        scale_jitter: tuple[float, float],
        seed: int,
        mosaic: float = 0.0,
        mosaic_until: int | None = None,
        bonnet: float = 0.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Index the data sets; opens no image.

        Args:
            sources: what to draw from.
            deployed: network input size in pixels; a scale of 1 fits an image into it.
            crop: size of the samples in pixels.
            scale_jitter: least and greatest random scale, relative to the deployed one.
            seed: of everything random.
            mosaic: share of the samples that are made of four images.
            mosaic_until: number of the first sample from which on there are none; None: never.
            bonnet: share of the drawn images into which the own car is painted.
            classes: what the boxes must be of; None: whatever.

        Raises LayoutError for a data set that is missing, broken or without any label, UserError
        for one of other classes.
        """
        self._samples: list[Sample] = []
        self._boxes_of_masks: list[bool] = []
        weights: list[float] = []
        for source in sources:
            # Some 20 s for all of BDD100K, most of them for its lane polygons.
            with Console(stderr=True).status(f"reading the labels of {source.root}"):
                samples = labelled_split(source, "train on", classes)
            self._samples += samples
            self._boxes_of_masks += [source.boxes_of_masks] * len(samples)
            weights += [source.weight / len(samples)] * len(samples)
        self._ends = cumulative_shares(weights)
        self._deployed, self._crop, self._seed = deployed, crop, seed
        self._scale_jitter = scale_jitter
        self._mosaic, self._mosaic_until, self._bonnet = mosaic, mosaic_until, bonnet
        # Often drawn images first: they gain most where not all of them fit.
        order = np.argsort(-np.array(weights), kind="stable").tolist()
        self._decoded = DecodedImages(self._load, order)

    def preload(self, budget_bytes: int | None = None) -> Iterator[int]:
        """Decode what fits into `budget_bytes` (default: of this machine's memory, the share of
        one process) before workers fork and share it; yields the count done.

        Raises LayoutError for a file that does not decode.
        """
        budget = memory_budget_bytes() if budget_bytes is None else budget_bytes
        yield from self._decoded.fill(budget)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> LabelledImage:
        rng = np.random.default_rng((self._seed, number))
        crop = self._crop
        allowed = self._mosaic_until is None or number < self._mosaic_until
        if allowed and self._mosaic and rng.random() < self._mosaic:
            four = [self._draw(rng) for _ in range(4)]
            scales = [self._scales(image) for image in four]
            return mosaic(four, crop.height, crop.width, scales, rng)
        image = self._draw(rng)
        return augment(image, crop.height, crop.width, self._scales(image), rng)

    def _draw(self, rng: np.random.Generator) -> LabelledImage:
        image = self._decoded[int(np.searchsorted(self._ends, rng.random(), side="right"))]
        return with_bonnet(image, rng) if self._bonnet and rng.random() < self._bonnet else image

    def _load(self, index: int) -> LabelledImage:
        try:
            return load_labelled(self._samples[index], self._boxes_of_masks[index])
        except BrokenFile as error:
            raise BrokenSample(str(error)) from None

    def _scales(self, image: LabelledImage) -> tuple[float, float]:
        height, width = image.image.shape[:2]
        scale = min(self._deployed.height / height, self._deployed.width / width)
        low, high = self._scale_jitter
        return scale * low, scale * high


def cumulative_shares(weights: Sequence[float]) -> npt.NDArray[np.float64]:
    """Where the share of each of n weights ends in 0..1, [n] ascending; the last one is 1 exactly.

    Divided by the sum, which numpy adds up in another order, it could be a little less: a random
    number above it would be nobody's.
    """
    ends = np.cumsum(weights, dtype=np.float64)
    return ends / ends[-1]

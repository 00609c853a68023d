"""Training samples: drawn by weight from several data sets, augmented, stacked into batches.

The k-th sample of a run depends on the seed and k alone, whatever the number of workers and
wherever the run was interrupted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

import numpy as np
import numpy.typing as npt
from rich.console import Console
from torch.utils.data import Dataset

from mtc_perception.core.class_map import VEHICLE_CLASSES, ClassMap
from mtc_perception.core.input_size import InputSize
from mtc_perception.core.letterbox import Letterbox, to_rgb
from mtc_perception.datasets.layout import (
    BrokenFile,
    LayoutError,
    Sample,
    read_source,
    read_truth,
)
from offline_compress.data.augment import LabelledImage, Scale, augment, with_fewer_pixels
from offline_compress.data.bonnet import with_bonnet
from offline_compress.data.cache import DecodedImages
from offline_compress.data.fragments import fragments
from offline_compress.data.labelled import categories_of, labelled_split
from offline_compress.data.mosaic import mosaic
from offline_compress.data.targets import IGNORE
from offline_compress.recipe.parts import DataSource, InputPx, SizePx


def load_labelled(
    sample: Sample,
    classes: ClassMap = VEHICLE_CLASSES,
    boxes_of_masks: bool = False,
    fit: InputSize | None = None,
) -> LabelledImage:
    """Decode one sample; a task without labels becomes all-IGNORE. Raises LayoutError.

    `boxes_of_masks`: what may be a piece of a vehicle becomes an ignore region. A large JPEG is
    decoded at a fraction of its size where that is enough to be scaled into `fit`.
    """
    source = read_source(sample.image_path, fit)
    image = source.pixels if source.format == "rgb" else to_rgb(source)
    size = (source.height, source.width)
    truth = read_truth(sample, size)
    if truth.boxes is None:
        boxes, kinds = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    else:
        found = classes.objects(truth)
        boxes, ignored = found.boxes.astype(np.float32, copy=False), found.ignore.copy()
        for label in np.unique(found.labels) if boxes_of_masks else ():
            own = found.labels == label
            ignored[own] |= fragments(boxes[own], *size)
        kinds = np.where(ignored, -2, found.labels)
    drivable, lane = (
        np.full(size, IGNORE, np.uint8) if mask is None else mask.astype(np.uint8)
        for mask in (truth.drivable, truth.lane)
    )
    labelled = LabelledImage(image, boxes, kinds, truth.boxes is not None, drivable, lane)
    return labelled if source.full_size is None else with_fewer_pixels(labelled, image)


class BrokenSample(LayoutError):
    """A file of the training set that does not decode."""

    def __init__(self, message: str) -> None:
        # A DataLoader raises a worker's exception again with the whole traceback as its message.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[-1].strip())


@dataclass(frozen=True, slots=True)
class View:
    """What samples show of their images."""

    crop: SizePx
    """Size of the samples in pixels."""
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Least and greatest random scale, relative to the deployed one."""
    mosaic: float = 0.0
    """Share of the samples that are made of four images."""


class TrainingSet(Dataset[LabelledImage]):
    """Map from the running number of a sample to its augmented crop."""

    def __init__(
        self,
        sources: Sequence[DataSource],
        deployed: InputPx,
        views: Mapping[int, View],
        seed: int,
        bonnet: float = 0.0,
        classes: ClassMap = VEHICLE_CLASSES,
    ) -> None:
        """Index the data sets; opens no image.

        Args:
            sources: what to draw from.
            deployed: network input size in pixels; a scale of 1 fits an image into it.
            views: by the number of the first sample that each is for, from 0 on.
            seed: of everything random.
            bonnet: share of the drawn images into which the own car is painted.
            classes: what the boxes are of.

        Raises LayoutError for a data set that is missing, broken or without any label, UserError
        for labels that no class takes, and for a class of which there are none.
        """
        self.parts: list[list[Sample]] = []
        self._boxes_of_masks: list[bool] = []
        weights: list[float] = []
        for source in sources:
            # Some 20 s for all of BDD100K, most of them for its lane polygons.
            with Console(stderr=True).status(f"reading the labels of {source.root}"):
                samples = labelled_split(source, "train on", classes)
            self.parts.append(samples)
            self._boxes_of_masks += [source.boxes_of_masks] * len(samples)
            weights += [source.weight / len(samples)] * len(samples)
        self._samples = list(chain.from_iterable(self.parts))
        classes.require_all(categories_of(self._samples))
        self._classes = classes
        self._ends = cumulative_shares(weights)
        self._deployed, self._views = deployed, sorted(views.items(), key=itemgetter(0))
        self._seed, self._bonnet = seed, bonnet
        # Often drawn images first: they gain most where not all of them fit.
        order = np.argsort(-np.array(weights), kind="stable").tolist()
        self.decoded = DecodedImages(self._load, order)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> LabelledImage:
        rng = np.random.default_rng((self._seed, number))
        view = [view for first, view in self._views if first <= number][-1]
        height, width = view.crop.height, view.crop.width
        if view.mosaic and rng.random() < view.mosaic:
            four, scales = zip(*(self._draw(view, rng) for _ in range(4)), strict=True)
            return mosaic(four, height, width, scales, rng)
        image, scale = self._draw(view, rng)
        return augment(image, height, width, scale, rng)

    def _draw(self, view: View, rng: np.random.Generator) -> tuple[LabelledImage, Scale]:
        """An image, and the scale at which it is to be shown."""
        index = int(np.searchsorted(self._ends, rng.random(), side="right"))
        scale = float(np.exp(rng.uniform(*np.log(view.scale_jitter))))
        # Shown no larger than deployed, it needs no more pixels than the vehicle decodes.
        image = self.decoded[index, scale <= 1]
        height, width = image.image.shape[:2]
        if self._bonnet and rng.random() < self._bonnet:
            image = with_bonnet(image, rng)
        box = Letterbox.fit(height, width, *self._deployed.size)
        return image, (scale * box.scale_x, scale * box.scale_y)

    def _load(self, index: int, small: bool) -> LabelledImage:
        try:
            fit = self._deployed.size if small else None
            return load_labelled(
                self._samples[index], self._classes, self._boxes_of_masks[index], fit
            )
        except BrokenFile as error:
            raise BrokenSample(str(error)) from None


def cumulative_shares(weights: Sequence[float]) -> npt.NDArray[np.float64]:
    """Where the share of each of n weights ends in 0..1, [n] ascending; the last one is 1 exactly.

    Divided by the sum, which numpy adds up in another order, it could be a little less: a random
    number above it would be nobody's.
    """
    ends = np.cumsum(weights, dtype=np.float64)
    return ends / ends[-1]

"""Images of a data set with their labels, whole and not augmented, as networks see them on the
vehicle."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtc_perception.core.class_map import VEHICLE_CLASSES, ClassMap
from mtc_perception.core.images import SourceImage
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.datasets.layout import Sample
from offline_compress.data.augment import LabelledImage, warp
from offline_compress.data.batch import Batch, collate
from offline_compress.data.dataset import load_labelled
from offline_compress.recipe.parts import InputPx


@dataclass(frozen=True, slots=True)
class LabelledBatches(Sequence[Batch]):
    """Batches of images with their labels, decoded when asked for; the last one may be smaller."""

    samples: list[Sample]
    size: InputPx
    batch: int
    classes: ClassMap = VEHICLE_CLASSES
    boxes_of_masks: Set[Path] = frozenset()
    """Images whose boxes are those of masks: what may be a piece of an object is an ignore region,
    as in training."""

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch)

    def __getitem__(self, number: int) -> Batch:  # type: ignore[override]
        """Raises LayoutError for a file that does not decode."""
        part = self.samples[number * self.batch : (number + 1) * self.batch]
        if not part:
            raise IndexError(number)
        images = [
            load_labelled(sample, self.classes, sample.image_path in self.boxes_of_masks)
            for sample in part
        ]
        return collate([_letterboxed(image, self.size) for image in images])


def _letterboxed(sample: LabelledImage, size: InputPx) -> LabelledImage:
    """The whole image, put into the input as on the vehicle, with its labels."""
    height, width = sample.image.shape[:2]
    box = Letterbox.fit(height, width, *size.size)
    matrix = np.array([[box.scale_x, 0, box.left], [0, box.scale_y, box.top]])
    moved = warp(sample, matrix, size.height, size.width)
    image = np.empty((size.height, size.width, 3), np.uint8)
    box.write(SourceImage(sample.image, "rgb"), image)
    return replace(moved, image=image)

"""Training samples: drawn by weight from several data sets, augmented, stacked into batches.

The k-th sample of a run depends on the seed and k alone, whatever the number of workers and
wherever the run was interrupted.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from mtc_perception.layout import Sample, read_image, read_split, read_truth
from offline_compress.data.augment import LabelledImage, augment
from offline_compress.losses.targets import IGNORE, Targets
from offline_compress.recipe import DataSource, SizePx


def load_labelled(sample: Sample) -> LabelledImage:
    """Decode one sample; a task without labels becomes all-IGNORE. Raises LayoutError."""
    image = read_image(sample.image_path)
    size = image.shape[:2]
    truth = read_truth(sample, size)
    if truth.boxes is None or truth.ignore is None:
        boxes, kinds = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    else:
        boxes, kinds = truth.boxes, np.where(truth.ignore, -2, 0)
    drivable, lane = (
        np.full(size, IGNORE, np.uint8) if mask is None else mask.astype(np.uint8)
        for mask in (truth.drivable, truth.lane)
    )
    return LabelledImage(image, boxes, kinds, truth.boxes is not None, drivable, lane)


class TrainingSet(Dataset[LabelledImage]):
    """Map from the running number of a sample to its augmented crop."""

    def __init__(
        self,
        sources: Sequence[DataSource],
        deployed: SizePx,
        crop: SizePx,
        scale_jitter: tuple[float, float],
        seed: int,
    ) -> None:
        self._samples: list[Sample] = []
        weights: list[float] = []
        for source in sources:
            samples = read_split(source.root, source.split)
            self._samples += samples
            weights += [source.weight / len(samples)] * len(samples)
        self._cumulative = np.cumsum(weights) / np.sum(weights)
        self._deployed, self._crop, self._seed = deployed, crop, seed
        self._scale_jitter = scale_jitter
        self._decoded: dict[int, LabelledImage] = {}

    def preload(self) -> Iterator[int]:
        """Decode every image once, before workers fork and share them; yields the count done."""
        for index, sample in enumerate(self._samples):
            self._decoded[index] = load_labelled(sample)
            yield index + 1

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> LabelledImage:
        rng = np.random.default_rng((self._seed, number))
        index = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        sample = self._decoded.get(index) or load_labelled(self._samples[index])
        height, width = sample.image.shape[:2]
        scale = min(self._deployed.height / height, self._deployed.width / width)
        low, high = self._scale_jitter
        scales = (scale * low, scale * high)
        return augment(sample, self._crop.height, self._crop.width, scales, rng)


class RunningNumbers(Sampler[int]):
    """The sample numbers `start` to `stop`: a run resumed at `start` sees what it would have."""

    def __init__(self, start: int, stop: int) -> None:
        self._range = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self._range)

    def __len__(self) -> int:
        return len(self._range)


def collate(samples: Sequence[LabelledImage]) -> tuple[torch.Tensor, Targets]:
    """Stack samples: uint8 images [N, 3, H, W] (channels-last memory) and their targets."""
    images = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2)
    most = max(1, *(len(s.boxes) for s in samples))
    boxes = torch.zeros(len(samples), most, 4)
    kinds = torch.full((len(samples), most), -1, dtype=torch.int64)
    for row, s in enumerate(samples):
        boxes[row, : len(s.boxes)] = torch.from_numpy(s.boxes)
        kinds[row, : len(s.boxes)] = torch.from_numpy(s.kinds)
    return images, Targets(
        boxes,
        kinds,
        torch.tensor([s.has_boxes for s in samples]),
        torch.from_numpy(np.stack([s.drivable for s in samples])),
        torch.from_numpy(np.stack([s.lane for s in samples])),
    )

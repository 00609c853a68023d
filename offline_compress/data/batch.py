"""Samples stacked for one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from offline_compress.data.augment import LabelledImage
from offline_compress.data.targets import Targets


@dataclass(frozen=True, slots=True)
class Batch:
    """Images and labels of one forward pass."""

    images: torch.Tensor
    """[N, 3, H, W] uint8, channels-last memory."""
    targets: Targets

    def to(self, device: torch.device) -> "Batch":
        """The same on `device`; copies from pinned memory run beside the computation."""
        moved = {
            f.name: getattr(self.targets, f.name).to(device, non_blocking=True)
            for f in fields(Targets)
        }
        return Batch(self.images.to(device, non_blocking=True), Targets(**moved))

    def pin_memory(self) -> "Batch":
        """Called by a DataLoader that pins memory."""
        pinned = {f.name: getattr(self.targets, f.name).pin_memory() for f in fields(Targets)}
        return Batch(self.images.pin_memory(), Targets(**pinned))


def collate(samples: Sequence[LabelledImage]) -> Batch:
    """Stack samples of one size."""
    images = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2)
    most = max(1, *(len(s.boxes) for s in samples))
    boxes = torch.zeros(len(samples), most, 4)
    kinds = torch.full((len(samples), most), -1, dtype=torch.int64)
    for row, s in enumerate(samples):
        boxes[row, : len(s.boxes)] = torch.from_numpy(s.boxes)
        kinds[row, : len(s.boxes)] = torch.from_numpy(s.kinds)
    targets = Targets(
        boxes,
        kinds,
        torch.tensor([s.has_boxes for s in samples]),
        torch.from_numpy(np.stack([s.drivable for s in samples])),
        torch.from_numpy(np.stack([s.lane for s in samples])),
    )
    return Batch(images, targets)

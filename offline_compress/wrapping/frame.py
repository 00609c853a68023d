"""What is put around a network: before it from pixels to its input, behind it to the contract."""

from collections.abc import Sequence

import torch
from torch import nn

from mtc_perception.core.tasks import outputs_of
from offline_compress.export import CANDIDATES, suppress
from offline_compress.wrapping.decoders import Size, decoded, grouped, probability
from offline_compress.wrapping.network_map import Detection, NetworkInput, NetworkMap

CANDIDATES_PER_DETECTION = 3
"""Of public detectors, whose scores of duplicates are close to each other."""
_NEVER = 2.0
"""No share of a box is as large."""


class Before(nn.Module):
    """uint8 [1, H, W, 3] RGB -> float [1, 3, H, W] as the network wants it."""

    def __init__(self, described: NetworkInput, dtype: torch.dtype) -> None:
        super().__init__()
        self._bgr, self._dtype = described.color_order == "bgr", dtype
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("mean", torch.tensor(described.mean)[:, None, None])
        self.register_buffer("scale", 1 / torch.tensor(described.std)[:, None, None])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Floats before anything else: TensorRT takes uint8 for inputs and outputs only."""
        pixels = image.float().permute(0, 3, 1, 2)
        if self._bgr:
            pixels = pixels[:, [2, 1, 0]]
        return ((pixels - self.mean) * self.scale).to(self._dtype)


class Behind(nn.Module):
    """The network's outputs, in the order of `names` -> those of the bundle's contract."""

    def __init__(self, described: NetworkMap, names: Sequence[str], size: Size) -> None:
        super().__init__()
        self._described, self._names, self._size = described, names, size

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what is returned."""
        return outputs_of(self._described.tasks)

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Raises UserError for outputs that cannot be what the map says of them."""
        outputs = dict(zip(self._names, values, strict=True))
        found: list[torch.Tensor] = []
        if (detection := self._described.detection) is not None:
            boxes, scores = decoded(outputs, detection, self._size)
            found += best(boxes, scores, detection, self._size)
        for name, mask in (
            ("drivable", self._described.drivable),
            ("lane", self._described.lane),
        ):
            if mask is not None:
                likely = probability(outputs, name, mask, self._size)
                found.append((likely * 255 + 0.5).to(torch.uint8))
        return tuple(found)


def best(
    boxes: torch.Tensor, scores: torch.Tensor, wanted: Detection, size: Size
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes [1, K, 4] within the input, scores [1, K], descending, those of duplicates 0, and
    labels [1, K]. K is `max_detections`, or the number of boxes if there are fewer."""
    scores, labels = grouped(scores, list(wanted.classes.values())).max(-1)
    most = min(wanted.max_detections, scores.shape[1])
    count = max(CANDIDATES, CANDIDATES_PER_DETECTION * most) if wanted.iou else most
    scores, index = scores.topk(min(count, scores.shape[1]), 1)
    # Not `gather`: in front of it OpenVINO 2026.4 forgets that boxes were sliced of longer rows.
    boxes = boxes[:, index[0]]
    labels = labels.gather(1, index)
    limit = torch.tensor([size[1], size[0]] * 2, dtype=boxes.dtype)
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    if wanted.iou:
        scores = suppress(boxes, scores, labels, wanted.iou, _NEVER)
        scores, index = scores.topk(most, 1)
        boxes = boxes[:, index[0]]
        labels = labels.gather(1, index)
    return boxes, scores.clamp(0, 1), labels.to(torch.int32)

"""Contrastive denoising queries (DINO, arXiv 2203.03605) that teach a query decoder boxes without
matching: noised copies of the labelled boxes, half of them so far off that they must be rejected.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from offline_compress.data.targets import Targets

DENOISING_QUERIES = 100
"""Copies of labelled boxes per image, and as many far-off ones."""
LABEL_NOISE = 0.25
"""Share of the queries whose class is drawn at random."""
FRACTION_MARGIN = 1e-5
"""Box fractions are kept this far from 0 and 1, where their logits would be infinite."""


@dataclass(frozen=True, slots=True)
class DenoisingQueries:
    """D noised copies of each image's boxes, in groups that do not see each other."""

    classes: torch.Tensor
    """[N, D] int64 noised class; the number of classes where `used` is False."""
    box_logits: torch.Tensor
    """[N, D, 4] float32 noised centre x, y, width, height as logits of image fractions."""
    box: torch.Tensor
    """[N, D] int64 index of the image's box to restore; -1: to be rejected."""
    used: torch.Tensor
    """[N, D] bool: False for the padding of images with fewer boxes than others."""
    groups: int
    """How often each box is copied."""

    def blocked(self, queries: int) -> torch.Tensor:
        """[D + Q, D + Q] bool, True where the row's query must not see the column's.

        The Q real queries, which come last, never see a denoising query.
        """
        noised = self.box.shape[1]
        group = torch.arange(noised, device=self.box.device) // (noised // self.groups)
        blocked = torch.zeros(
            noised + queries, noised + queries, dtype=torch.bool, device=self.box.device
        )
        blocked[:noised, :noised] = group[:, None] != group
        blocked[noised:, :noised] = True
        return blocked


def denoising_queries(
    targets: Targets, image_size: tuple[int, int], classes: int
) -> DenoisingQueries:
    """Noised copies of the labelled boxes of `targets`; ignore regions are left out.

    Drawn from torch's global random state. A batch without any box gets unused queries, so that
    every process of a distributed training has gradients for the same parameters.
    """
    # One row of padding: not every batch has a box.
    boxes = F.pad(targets.boxes, (0, 0, 0, 1))
    kinds = F.pad(targets.kinds, (0, 1), value=-1)
    real = (kinds >= 0) & targets.has_boxes[:, None]
    count = max(1, int(real.sum(1).max()))
    groups = max(1, DENOISING_QUERIES // count)
    # The real boxes of each image first, then what pads it to the fullest image.
    index = torch.argsort(real.int(), dim=1, descending=True, stable=True)[:, :count]
    shape = (len(index), groups, 2, count)  # images, groups, near or far, boxes
    index = index[:, None, None].expand(shape).flatten(1)
    used, kinds = real.gather(1, index), kinds.gather(1, index)
    size = torch.tensor(image_size[::-1] * 2, dtype=torch.float32, device=boxes.device)
    corners = (boxes / size).gather(1, index[..., None].expand(-1, -1, 4))
    far = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
    far[:, :, 1] = True
    far = far.flatten(1)

    # Near copies move each edge by up to half the box, far ones by half to all of it.
    distance = torch.rand_like(corners) + far[..., None]
    sign = torch.randint_like(corners, 0, 2) * 2 - 1
    half = (corners[..., 2:] - corners[..., :2]).repeat(1, 1, 2) / 2
    noised = (corners + sign * distance * half).clamp(0, 1)
    centre, extent = (noised[..., :2] + noised[..., 2:]) / 2, noised[..., 2:] - noised[..., :2]
    fractions = torch.cat((centre, extent), -1)
    mistaken = torch.rand(kinds.shape, device=kinds.device) < LABEL_NOISE
    kinds = torch.where(mistaken, torch.randint_like(kinds, classes), kinds)
    return DenoisingQueries(
        kinds.masked_fill(~used, classes),
        torch.logit(fractions, FRACTION_MARGIN),
        index.masked_fill(far | ~used, -1),
        used,
        groups,
    )

"""Mosaics: four labelled images side by side in one training sample (arXiv 2004.10934)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mtc_perception.core.letterbox import PAD_VALUE
from offline_compress.data.augment import LabelledImage, Scale, random_affine, warp
from offline_compress.data.photometric import photometric
from offline_compress.data.targets import IGNORE

CENTRE = (0.25, 0.75)
"""Range of the point where the four tiles meet, in fractions of the crop."""


def mosaic(
    samples: Sequence[LabelledImage],
    height: int,
    width: int,
    scales: Sequence[Scale],
    rng: np.random.Generator,
) -> LabelledImage:
    """A `height` x `width` sample of four images that meet at a random point.

    A tile shows less of its image than a sample of one image would, and not a smaller one: far
    vehicles must not shrink to nothing.

    Args:
        samples: four labelled images, for top left, top right, bottom left, bottom right.
        height, width: size of the result in pixels.
        scales: of each image.
        rng: decides the centre, and the crop of every tile.

    A task that a tile is not labelled for stays unlabelled there: its mask is IGNORE, and for
    vehicles the tile becomes one ignore region, so that nothing in it counts as background.
    """
    x = round(width * rng.uniform(*CENTRE))
    y = round(height * rng.uniform(*CENTRE))
    image = np.full((height, width, 3), PAD_VALUE, np.uint8)
    drivable, lane = (np.full((height, width), IGNORE, np.uint8) for _ in range(2))
    boxes, kinds = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)]
    tiles = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    for sample, scale, (x1, y1, x2, y2) in zip(samples, scales, tiles, strict=True):
        source_height, source_width = sample.image.shape[:2]
        matrix = random_affine(source_height, source_width, y2 - y1, x2 - x1, scale, rng)
        tile = warp(sample, matrix, y2 - y1, x2 - x1)
        image[y1:y2, x1:x2] = tile.image
        drivable[y1:y2, x1:x2] = tile.drivable
        lane[y1:y2, x1:x2] = tile.lane
        if sample.has_boxes:
            boxes.append(tile.boxes + np.array([x1, y1, x1, y1], np.float32))
            kinds.append(tile.kinds)
        else:
            boxes.append(np.array([[x1, y1, x2, y2]], np.float32))
            kinds.append(np.array([-2], np.int64))
    has_boxes = any(sample.has_boxes for sample in samples)
    if not has_boxes:
        boxes, kinds = boxes[:1], kinds[:1]
    whole = LabelledImage(
        image, np.concatenate(boxes), np.concatenate(kinds), has_boxes, drivable, lane
    )
    return replace(whole, image=photometric(whole.image, rng))

"""The own car's bonnet, painted into training images: what it looks like, and what it hides.

Few data sets show one, many vehicles do; a network that never saw one takes it for road or paint.
"""

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from offline_compress.data.augment import LabelledImage
from offline_compress.data.targets import IGNORE

HEIGHT = (0.04, 0.2)
"""Of the image: the least and greatest height of a bonnet, at its middle."""
MOST_HIDDEN = 0.5
"""A vehicle of which a bonnet hides more than this becomes an ignore region."""


def with_bonnet(sample: LabelledImage, rng: np.random.Generator) -> LabelledImage:
    """The sample with a bonnet of random shape, colour and reflections along its lower edge.

    It is neither drivable nor paint where these are labelled; elsewhere they stay unlabelled.
    """
    height, width = sample.image.shape[:2]
    edge = _edge(height, width, rng)
    hidden = np.arange(height)[:, None] >= edge
    image = sample.image.copy()
    image[hidden] = _paint(sample.image, rng)[hidden]
    drivable, lane = (
        np.where(hidden & (mask != IGNORE), 0, mask).astype(np.uint8)
        for mask in (sample.drivable, sample.lane)
    )
    return replace(sample, image=image, kinds=_kinds(sample, edge), drivable=drivable, lane=lane)


def _edge(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Row at which the bonnet begins, per column [width]: an arch, falling to both sides."""
    across = (np.arange(width) + 0.5) / width - rng.uniform(0.35, 0.65)
    fall = rng.uniform(0.0, 2.5) * across**2 + rng.uniform(0, 20) * across**4
    edge: npt.NDArray[np.float64] = height * (1 - rng.uniform(*HEIGHT) * (1 - fall))
    return edge


def _paint(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A lacquered surface [H, W, 3]: one colour, lighter towards the windscreen or away from it,
    in which the blurred scene is mirrored."""
    height = image.shape[0]
    grey = rng.uniform(5, 235)
    colour = np.clip(grey + rng.normal(0, 25, 3) * (rng.random() < 0.5), 0, 255)
    shade = np.linspace(rng.uniform(0.6, 1.4), rng.uniform(0.6, 1.4), height // 4 + 1)
    rows = np.arange(height)
    light = shade[np.minimum((height - 1 - rows), height // 4)]
    mirrored = cv2.GaussianBlur(image[::-1], (0, 0), rng.uniform(0.5, 6))
    share = rng.uniform(0.0, 0.6)
    mixed = (1 - share) * light[:, None, None] * colour + share * mirrored
    return mixed.clip(0, 255).astype(np.uint8)


def _kinds(sample: LabelledImage, edge: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    if not len(sample.boxes):
        return sample.kinds
    x1, y1, x2, y2 = sample.boxes.T
    middle = ((x1 + x2) / 2).clip(0, len(edge) - 1).astype(int)
    hidden = (y2 - np.maximum(y1, edge[middle])) / np.maximum(y2 - y1, 1e-6)
    return np.where(hidden > MOST_HIDDEN, -2, sample.kinds)

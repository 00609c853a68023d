"""The own car, painted into training images: what of it a camera sees, and what that hides.

Few data sets show any of it, many vehicles do; a network that never saw a bonnet takes it for road
or paint.
"""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from offline_compress.data.augment import LabelledImage
from offline_compress.data.targets import IGNORE

BONNET_HEIGHT = (0.04, 0.2)
"""Of the image: the least and greatest height of a bonnet, at its middle."""
DASHBOARD_HEIGHT = (0.02, 0.15)
"""Of the image: the least and greatest mean height of a dashboard or a bumper."""
BORDER = 0.1
"""Of the image's smaller side: the greatest width of a border."""
MOST_HIDDEN = 0.5
"""A vehicle of which more than this is hidden becomes an ignore region."""

Image = npt.NDArray[np.uint8]
Cover = npt.NDArray[np.float32]
"""[H, W] how much of each pixel is hidden, 0 to 1."""


def with_bonnet(sample: LabelledImage, rng: np.random.Generator) -> LabelledImage:
    """The sample with something of the own car: its bonnet (mostly), its dashboard or bumper, or
    the edge of the camera's housing all around.

    What is hidden is neither drivable nor paint where these are labelled; elsewhere they stay
    unlabelled. Boxes end where their vehicles are hidden.
    """
    kind = rng.choice(3, p=(0.6, 0.25, 0.15))
    shapes: tuple[Callable[..., Cover], ...] = (_bonnet, _dashboard, _border)
    surfaces: tuple[Callable[..., Image], ...] = (_lacquer, _plastic, _dark)
    height, width = sample.image.shape[:2]
    cover = shapes[kind](height, width, rng)
    surface = surfaces[kind](sample.image, rng)
    image = cv2.blendLinear(surface, sample.image, cover, 1 - cover)
    hidden = cover >= 0.5
    drivable, lane = (
        np.where(hidden & (mask != IGNORE), 0, mask).astype(np.uint8)
        for mask in (sample.drivable, sample.lane)
    )
    boxes, kinds = _uncovered(sample, hidden)
    return replace(sample, image=image, boxes=boxes, kinds=kinds, drivable=drivable, lane=lane)


def _bonnet(height: int, width: int, rng: np.random.Generator) -> Cover:
    """An arch along the lower edge, falling to both sides."""
    across = (np.arange(width) + 0.5) / width - rng.uniform(0.35, 0.65)
    fall = rng.uniform(0.0, 2.5) * across**2 + rng.uniform(0, 20) * across**4
    return _below(height * (1 - rng.uniform(*BONNET_HEIGHT) * (1 - fall)), height)


def _dashboard(height: int, width: int, rng: np.random.Generator) -> Cover:
    """A slanted line along the lower edge, with or without bumps."""
    x = np.linspace(-0.5, 0.5, width)
    waves = 0.2 * (rng.random() < 0.5) * np.sin(x * rng.uniform(4, 25) + rng.uniform(0, 6))
    share = rng.uniform(*DASHBOARD_HEIGHT) * (1 + rng.normal(0, 0.4) * x + waves)
    return _below(height * (1 - share), height)


def _below(edge: npt.NDArray[np.float64], height: int) -> Cover:
    """What lies below a row per column [W]; the edge itself covers pixels in part."""
    rows = np.arange(1, height + 1)[:, None]
    return (rows - edge).clip(0, 1).astype(np.float32)


def _border(height: int, width: int, rng: np.random.Generator) -> Cover:
    """All outside of a rectangle with round corners, up to an ellipse."""
    most = BORDER * min(height, width)
    left, right, top, bottom = rng.uniform(-most / 2, most, 4)
    half = np.array([width - left - right, height - top - bottom]) / 2
    reach = half * (0.95 - 0.95 * rng.random() ** 2)
    radius = half - reach
    x = (np.abs(np.arange(width) + 0.5 - left - half[0]) - reach[0]).clip(0) / radius[0]
    y = (np.abs(np.arange(height) + 0.5 - top - half[1]) - reach[1]).clip(0) / radius[1]
    outside = np.hypot(x[None], y[:, None]) - 1
    return (outside * radius.min()).clip(0, 1).astype(np.float32)


def _lacquer(image: Image, rng: np.random.Generator) -> Image:
    """One colour, lighter towards the windscreen or away from it, in which the blurred scene is
    mirrored: little of it in matt paint, nearly nothing else in a glossy one."""
    height, width = image.shape[:2]
    grey = rng.uniform(5, 235)
    colour = np.clip(grey + rng.normal(0, 25, 3) * (rng.random() < 0.5), 0, 255)
    shade = np.linspace(rng.uniform(0.6, 1.4), rng.uniform(0.6, 1.4), height // 4 + 1)
    rows = np.arange(height)
    light = shade[np.minimum((height - 1 - rows), height // 4)]
    share = rng.uniform(0.0, 0.85)
    # Blurred at half of the size: a blur of several pixels leaves nothing finer.
    small = cv2.resize(image[::-1], (max(1, width // 2), max(1, height // 2)))
    mirrored = cv2.resize(cv2.GaussianBlur(small, (0, 0), rng.uniform(0.5, 3)), (width, height))
    mixed = (1 - share) * light[:, None, None] * colour + share * mirrored
    return np.asarray(mixed.clip(0, 255).astype(np.uint8))


def _plastic(image: Image, rng: np.random.Generator) -> Image:
    """Dark and matt, with a grain."""
    grey = rng.uniform(0, 90) + rng.normal(0, 6, 3)
    grain = rng.normal(0, rng.uniform(0, 12), (*image.shape[:2], 1))
    return np.asarray((grey + grain).clip(0, 255).astype(np.uint8))


def _dark(image: Image, rng: np.random.Generator) -> Image:
    """Black, or nearly so."""
    return np.full_like(image, rng.uniform(0, 30))


def _uncovered(
    sample: LabelledImage, hidden: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Boxes around what remains to be seen of each; mostly hidden ones become ignore regions."""
    boxes, kinds = sample.boxes.copy(), sample.kinds.copy()
    height, width = hidden.shape
    limits = boxes.astype(np.float64).clip(0, (width, height, width, height))
    corners = np.concatenate((np.floor(limits[:, :2]), np.ceil(limits[:, 2:])), 1).astype(int)
    for row, (x1, y1, x2, y2) in enumerate(corners):
        inside = hidden[y1:y2, x1:x2]
        if not inside.any():
            continue
        if inside.mean() > MOST_HIDDEN:
            kinds[row] = -2
            continue
        ys, xs = np.flatnonzero(~inside.all(1)), np.flatnonzero(~inside.all(0))
        seen = (x1 + xs[0], y1 + ys[0], x1 + xs[-1] + 1, y1 + ys[-1] + 1)
        boxes[row, :2] = np.maximum(boxes[row, :2], seen[:2])
        boxes[row, 2:] = np.minimum(boxes[row, 2:], seen[2:])
    return boxes, kinds

"""Training augmentation: one affine warp and one photometric pass keep all three labels aligned."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from offline_compress.losses.targets import IGNORE

PAD_VALUE = 114
MIN_BOX_PX = 5.0
"""Boxes thinner than this in network pixels become ignore regions: nobody could label them."""
MIN_VISIBLE = 0.35
"""A box of which less than this fraction is left inside the crop becomes an ignore region."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image with the labels of the tasks it is labelled for."""

    image: npt.NDArray[np.uint8]
    """[H, W, 3] RGB."""
    boxes: npt.NDArray[np.float32]
    """[n, 4] x1, y1, x2, y2."""
    kinds: npt.NDArray[np.int64]
    """[n] class index, or -2 for an ignore region."""
    has_boxes: bool
    drivable: npt.NDArray[np.uint8]
    """[H, W] 0, 1 or IGNORE."""
    lane: npt.NDArray[np.uint8]
    """[H, W] 0, 1 or IGNORE."""


def warp(
    sample: LabelledImage, matrix: npt.NDArray[np.float64], height: int, width: int
) -> LabelledImage:
    """Apply a 2x3 affine matrix (pixel-edge coordinates) to the image and every label."""
    # cv2 puts integer coordinates at pixel centres, boxes count from pixel edges.
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    shrink = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    source = sample.image
    if shrink < 0.6:  # Bilinear sampling alone would alias.
        source = cv2.GaussianBlur(source, (0, 0), 0.4 / shrink)
    size = (width, height)
    image = cv2.warpAffine(
        source, centred, size, flags=cv2.INTER_LINEAR, borderValue=(PAD_VALUE,) * 3
    )
    drivable, lane = (
        cv2.warpAffine(mask, centred, size, flags=cv2.INTER_NEAREST, borderValue=(IGNORE,))
        for mask in (sample.drivable, sample.lane)
    )
    boxes, kinds = _warp_boxes(sample.boxes, sample.kinds, matrix, height, width)
    return LabelledImage(image, boxes, kinds, sample.has_boxes, drivable, lane)


def _warp_boxes(
    boxes: npt.NDArray[np.float32],
    kinds: npt.NDArray[np.int64],
    matrix: npt.NDArray[np.float64],
    height: int,
    width: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Boxes around the warped ellipses inscribed in the boxes: rotation inflates them least."""
    if not len(boxes):
        return boxes, kinds
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 @ matrix[:, :2].T + matrix[:, 2]
    half = np.sqrt(((boxes[:, 2:] - boxes[:, :2]) / 2) ** 2 @ (matrix[:, :2] ** 2).T)
    full = np.concatenate((centre - half, centre + half), 1)
    clipped = full.clip(0, (width, height, width, height)).astype(np.float32)
    size = clipped[:, 2:] - clipped[:, :2]
    visible = size.prod(1) / np.maximum((2 * half).prod(1), 1e-6)
    inside = (size > 1).all(1)
    poor = (visible < MIN_VISIBLE) | (size.min(1) < MIN_BOX_PX)
    kinds = np.where(poor, -2, kinds)
    return clipped[inside], kinds[inside]


def random_affine(
    height: int,
    width: int,
    out_height: int,
    out_width: int,
    scales: tuple[float, float],
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Random flip, scale (between the two given), rotation, squeeze and crop position."""
    scale = np.exp(rng.uniform(*np.log(scales)))
    squeeze = np.exp(rng.normal(0, 0.06))
    angle = np.deg2rad(rng.normal(0, 2.0))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag(
        [scale * squeeze * flip, scale / squeeze]
    )
    slack_x = max(0.0, width * scale - out_width) / scale / 2
    slack_y = max(0.0, height * scale - out_height) / scale / 2
    focus = np.array(
        [
            width / 2 + rng.uniform(-1, 1) * (slack_x + 0.05 * width),
            height / 2 + rng.uniform(-1, 1) * (slack_y + 0.05 * height),
        ]
    )
    shift = np.array([out_width / 2, out_height / 2]) - linear @ focus
    return np.concatenate((linear, shift[:, None]), 1)


def photometric(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Exposure, gamma, colour, night, cast shadow, blur and sensor noise. Same shape and dtype."""
    if rng.random() < 0.8:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hue, saturation = rng.normal(0, 6), np.exp(rng.normal(0, 0.35))
        ramp = np.arange(256)
        hsv[..., 0] = cv2.LUT(hsv[..., 0], ((ramp + hue) % 180).astype(np.uint8))
        hsv[..., 1] = cv2.LUT(hsv[..., 1], (ramp * saturation).clip(0, 255).astype(np.uint8))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    night = rng.random() < 0.1
    gain = rng.uniform(0.2, 0.5) if night else np.exp(rng.normal(0, 0.2))
    gamma = np.exp(rng.normal(0, 0.25))
    tint = np.exp(rng.normal(0, 0.06, 3))
    ramp = np.linspace(0, 1, 256)[:, None] ** gamma * gain * tint
    lut = (255 * ramp + rng.normal(0, 8)).clip(0, 255).astype(np.uint8)
    image = cv2.LUT(image, lut[None])
    if rng.random() < 0.15:
        image = _shadow(image, rng)
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.4))
    if rng.random() < 0.3:
        noise = np.empty(image.shape, np.int8)
        cv2.setRNGSeed(int(rng.integers(1 << 31)))
        cv2.randn(noise, 0, float(rng.uniform(2, 12)))
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
    return image


def _shadow(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Darken a random polygon: road shadows look like lane edges to a naive network."""
    height, width = image.shape[:2]
    corners = (rng.random((4, 2)) * (width, height)).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [cv2.convexHull(corners)], 255)
    dark = cv2.convertScaleAbs(image, alpha=float(rng.uniform(0.4, 0.8)))
    cv2.copyTo(dark, mask, image)
    return image


def augment(
    sample: LabelledImage,
    height: int,
    width: int,
    scales: tuple[float, float],
    rng: np.random.Generator,
) -> LabelledImage:
    """A random `height` x `width` crop of a labelled image at a scale between the two given."""
    source_height, source_width = sample.image.shape[:2]
    matrix = random_affine(source_height, source_width, height, width, scales, rng)
    moved = warp(sample, matrix, height, width)
    return LabelledImage(
        photometric(moved.image, rng),
        moved.boxes,
        moved.kinds,
        moved.has_boxes,
        moved.drivable,
        moved.lane,
    )

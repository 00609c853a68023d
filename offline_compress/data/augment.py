"""Training augmentation: one affine warp and one photometric pass keep all three labels aligned."""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.letterbox import PAD_VALUE
from offline_compress.data.photometric import photometric
from offline_compress.data.targets import IGNORE

MIN_BOX_PX = 1.5
"""Boxes thinner than this in network pixels become ignore regions: nothing is left to see. No
more: what is evaluated must be learnt, and of 1280 x 720 px in 640 x 384 every vehicle has half."""
MIN_VISIBLE = 0.35
"""A box of which less than this fraction is left inside the crop becomes an ignore region."""
Scale = tuple[float, float]
"""Pixels of a sample for one of the labelled image, across and down."""
_HALF, _FAINT = 128, 25
"""Of 255: the cover that makes a pixel lane, and the least that does where a line is thin."""
_NEIGHBOURS = np.ones((3, 3), np.uint8)


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
    reduced: bool = False
    """Whether H and W are fractions of the size of its file."""


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
    image = cv2.warpAffine(
        source, centred, (width, height), flags=cv2.INTER_LINEAR, borderValue=(PAD_VALUE,) * 3
    )
    drivable, lane = _warp_masks(sample, centred, shrink, height, width)
    boxes, kinds = _warp_boxes(sample.boxes, sample.kinds, matrix, height, width)
    return LabelledImage(image, boxes, kinds, sample.has_boxes, drivable, lane)


def with_fewer_pixels(sample: LabelledImage, image: npt.NDArray[np.uint8]) -> LabelledImage:
    """The sample with `image`, its own at a fraction of the size, and labels that fit that."""
    (height, width), (whole_height, whole_width) = image.shape[:2], sample.drivable.shape
    x, y = width / whole_width, height / whole_height
    centred = np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5]])
    drivable, lane = _warp_masks(sample, centred, float(np.sqrt(x * y)), height, width)
    boxes = (sample.boxes * np.array([x, y, x, y])).astype(np.float32)
    return LabelledImage(image, boxes, sample.kinds, sample.has_boxes, drivable, lane, reduced=True)


def _warp_masks(
    sample: LabelledImage,
    centred: npt.NDArray[np.float64],
    shrink: float,
    height: int,
    width: int,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Drivable area and lanes [height, width]; `centred` counts from the centres of pixels."""
    drivable, lane = (
        cv2.warpAffine(
            mask, centred, (width, height), flags=cv2.INTER_NEAREST, borderValue=(IGNORE,)
        ).astype(np.uint8, copy=False)
        for mask in (sample.drivable, sample.lane)
    )
    if shrink < 1:
        drivable, lane = _shrunk_lane(sample, centred, shrink, drivable, lane)
    return drivable, lane


def _shrunk_lane(
    sample: LabelledImage,
    centred: npt.NDArray[np.float64],
    shrink: float,
    drivable: npt.NDArray[np.uint8],
    lane: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Replace nearest-sampled labels by ones in which no line is lost between two samples.

    A pixel is lane where paint covers half of it, and less where there is no such pixel around: a
    line thinner than a pixel stays a line and thicker ones keep their width. Paint that lies on
    drivable ground stays drivable.
    """
    paint = cv2.compare(sample.lane, 1, cv2.CMP_EQ)
    cover = _cover(paint, centred, shrink, lane.shape)
    thick = cv2.compare(cover, _HALF, cv2.CMP_GE)
    faint = cv2.compare(cover, _FAINT, cv2.CMP_GE)
    found = cv2.bitwise_or(thick, cv2.bitwise_and(faint, ~cv2.dilate(thick, _NEIGHBOURS)))
    lane = np.where(lane == IGNORE, lane, found & 1)
    added = found & cv2.compare(drivable, 0, cv2.CMP_EQ)
    if added.any():
        elsewhere = cv2.bitwise_and(paint, cv2.compare(sample.drivable, 1, cv2.CMP_NE))
        if elsewhere.any():
            off_road = _cover(elsewhere, centred, shrink, lane.shape)
            added &= cv2.compare(off_road, _FAINT, cv2.CMP_LT)
        drivable = drivable | (added & 1)
    return drivable, lane


def _cover(
    mask: npt.NDArray[np.uint8],
    centred: npt.NDArray[np.float64],
    shrink: float,
    shape: tuple[int, ...],
) -> npt.NDArray[np.uint8]:
    """How much of each target pixel a 0 or 255 mask covers, 0 to 255, zero outside the image."""
    # Rounded up where it matters: between two samples further apart than the blur is wide, a line
    # of one pixel would be gone. Below that, interpolation sees every pixel.
    step = math.ceil(1 / shrink) if shrink < 2 / 3 else 1
    if step > 1:
        mask = cv2.blur(mask, (step, step), borderType=cv2.BORDER_REPLICATE)
    return cv2.warpAffine(mask, centred, shape[::-1], flags=cv2.INTER_LINEAR)


def _warp_boxes(
    boxes: npt.NDArray[np.float32],
    kinds: npt.NDArray[np.int64],
    matrix: npt.NDArray[np.float64],
    height: int,
    width: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Boxes around the warped ellipses inscribed in the boxes: rotation inflates them least."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 @ matrix[:, :2].T + matrix[:, 2]
    half = np.sqrt(((boxes[:, 2:] - boxes[:, :2]) / 2) ** 2 @ (matrix[:, :2] ** 2).T)
    full = np.concatenate((centre - half, centre + half), 1)
    clipped = full.clip(0, (width, height, width, height)).astype(np.float32)
    size = clipped[:, 2:] - clipped[:, :2]
    visible = size.prod(1) / np.maximum((2 * half).prod(1), 1e-6)
    inside = (size > 0).all(1)
    poor = (visible < MIN_VISIBLE) | (size.min(1) < MIN_BOX_PX)
    kinds = np.where(poor, -2, kinds)
    return clipped[inside], kinds[inside]


def random_affine(
    height: int,
    width: int,
    out_height: int,
    out_width: int,
    scale: Scale,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Random flip, rotation, squeeze and crop position at the scale given."""
    scale_x, scale_y = scale
    squeeze = np.exp(rng.normal(0, 0.06))
    angle = np.deg2rad(rng.normal(0, 2.0))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag(
        [scale_x * squeeze * flip, scale_y / squeeze]
    )
    slack_x = max(0.0, width - out_width / scale_x) / 2
    slack_y = max(0.0, height - out_height / scale_y) / 2
    focus = np.array(
        [
            width / 2 + rng.uniform(-1, 1) * (slack_x + 0.05 * width),
            height / 2 + rng.uniform(-1, 1) * (slack_y + 0.05 * height),
        ]
    )
    shift = np.array([out_width / 2, out_height / 2]) - linear @ focus
    return np.concatenate((linear, shift[:, None]), 1)


def augment(
    sample: LabelledImage,
    height: int,
    width: int,
    scale: Scale,
    rng: np.random.Generator,
) -> LabelledImage:
    """A random `height` x `width` crop of a labelled image at about the scale given."""
    source_height, source_width = sample.image.shape[:2]
    matrix = random_affine(source_height, source_width, height, width, scale, rng)
    moved = warp(sample, matrix, height, width)
    return replace(moved, image=photometric(moved.image, rng))

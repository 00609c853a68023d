"""Changes of an image's values that leave every label where it is."""

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]


def photometric(image: Image, rng: np.random.Generator) -> Image:
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
    if night and rng.random() < 0.7:
        image = headlights(image, rng)
    elif rng.random() < 0.15:
        image = _shadow(image, rng)
    kind = rng.random()
    if kind < 0.16:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.4))
    elif kind < 0.24:
        image = motion_blur(image, rng)
    if night or rng.random() < 0.3:
        noise = np.empty(image.shape, np.int8)
        cv2.setRNGSeed(int(rng.integers(1 << 31)))
        cv2.randn(noise, 0, float(rng.uniform(2, 12)))
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
    return image


def headlights(image: Image, rng: np.random.Generator) -> Image:
    """Light the road ahead of the vehicle and let the rest fall off into the dark."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[0:12, 0:16] / np.array([11, 15]).reshape(2, 1, 1)
    x, y = rng.uniform(0.35, 0.65), rng.uniform(0.7, 1.0)
    across, along = rng.uniform(0.25, 0.6), rng.uniform(0.2, 0.4)
    light = np.exp(-(((columns - x) / across) ** 2) - ((rows - y) / along) ** 2)
    gain = rng.uniform(0.3, 0.7) + rng.uniform(1.0, 2.0) * light
    # Two small images in one product: 64 is a gain of 1.
    grid = cv2.resize((64 * gain).astype(np.uint8), (width, height))
    return np.asarray(cv2.multiply(image, cv2.merge((grid, grid, grid)), scale=1 / 64))


def motion_blur(image: Image, rng: np.random.Generator) -> Image:
    """Smear along a line of 3 to 9 pixels, as the camera shakes or turns."""
    length = int(rng.integers(3, 10)) | 1
    angle = rng.uniform(0, np.pi)
    middle = length // 2
    offset = np.round(middle * np.array([np.cos(angle), np.sin(angle)])).astype(int)
    kernel = np.zeros((length, length), np.float32)
    begin, end = middle - offset, middle + offset
    cv2.line(kernel, begin.tolist(), end.tolist(), 1.0)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()))


def _shadow(image: Image, rng: np.random.Generator) -> Image:
    """Darken a random polygon: road shadows look like lane edges to a naive network."""
    height, width = image.shape[:2]
    corners = (rng.random((4, 2)) * (width, height)).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [cv2.convexHull(corners)], 255)
    dark = cv2.convertScaleAbs(image, alpha=float(rng.uniform(0.4, 0.8)))
    cv2.copyTo(dark, mask, image)
    return image

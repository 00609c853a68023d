"""Changes of an image's values that leave every label where it is.

In the order in which they come about: light on the scene, lens and exposure, sensor, encoding.
"""

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]


def photometric(image: Image, rng: np.random.Generator) -> Image:
    """Another light and another camera. Same shape and dtype."""
    night = rng.random() < 0.1
    image = _exposed(_tinted(image, rng), night, rng)
    if night and rng.random() < 0.7:
        image = headlights(image, rng)
    elif rng.random() < 0.15:
        image = _shadow(image, rng)
    if rng.random() < 0.1:
        image = veil(image, rng)
    if rng.random() < 0.1:
        image = vignette(image, rng)
    kind = rng.random()
    if kind < 0.12:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.4))
    elif kind < 0.2:
        image = motion_blur(image, rng)
    elif kind < 0.3:
        image = coarse(image, rng)
    if night or rng.random() < 0.3:
        noise = np.empty(image.shape, np.int8)
        cv2.setRNGSeed(int(rng.integers(1 << 31)))
        cv2.randn(noise, 0, float(rng.uniform(2, 12)))
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
    if rng.random() < 0.12:
        image = recompressed(image, rng)
    return image


def _tinted(image: Image, rng: np.random.Generator) -> Image:
    """Hue and saturation."""
    if rng.random() > 0.8:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hue, saturation = rng.normal(0, 6), np.exp(rng.normal(0, 0.35))
    ramp = np.arange(256)
    hsv[..., 0] = cv2.LUT(hsv[..., 0], ((ramp + hue) % 180).astype(np.uint8))
    hsv[..., 1] = cv2.LUT(hsv[..., 1], (ramp * saturation).clip(0, 255).astype(np.uint8))
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _exposed(image: Image, night: bool, rng: np.random.Generator) -> Image:
    """Exposure from dusk to glare, gamma, black level, and white balance: any tint a little, from
    warm to cold more."""
    gain = rng.uniform(0.2, 0.5) if night else np.exp(rng.normal(-0.05, 0.27))
    gamma = np.exp(rng.normal(0, 0.25))
    tint = np.exp(rng.normal(0, 0.06, 3) + np.array([1, 0, -1]) * rng.normal(0, 0.1))
    ramp = np.linspace(0, 1, 256)[:, None] ** gamma * gain * tint
    lut = (255 * ramp + rng.normal(0, 8)).clip(0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, lut[None]))


def headlights(image: Image, rng: np.random.Generator) -> Image:
    """Light the road ahead of the vehicle and let the rest fall off into the dark."""
    light = _glow(rng, (0.35, 0.65), (0.7, 1.0), (0.25, 0.6), (0.2, 0.4))
    return _lit(image, rng.uniform(0.3, 0.7) + rng.uniform(1.0, 2.0) * light)


def vignette(image: Image, rng: np.random.Generator) -> Image:
    """Darker corners, as of a wide lens."""
    y, x = np.mgrid[-1:1:12j, -1:1:16j]
    return _lit(image, 1 - rng.uniform(0.2, 0.8) * (x**2 + y**2) / 2)


def veil(image: Image, rng: np.random.Generator) -> Image:
    """Low sun or fog: light that is scattered over the scene, most of it around one point, while
    the camera exposes for it. Dark things lose their contrast, the ground lies in the shade."""
    glow = _glow(rng, (0.0, 1.0), (0.0, 0.5), (0.2, 0.8), (0.2, 0.6))
    share = rng.uniform(0.2, 0.8) * glow + rng.uniform(0, 0.3)
    shaded = _lit(image, rng.uniform(0.5, 1.0) * (1 - share))
    colour = 255 * np.array([1, rng.uniform(0.85, 1), rng.uniform(0.7, 1)])
    light = (share[..., None] * colour).clip(0, 255).astype(np.uint8)
    return np.asarray(cv2.add(shaded, cv2.resize(light, image.shape[1::-1])))


def _glow(
    rng: np.random.Generator,
    x: tuple[float, float],
    y: tuple[float, float],
    across: tuple[float, float],
    along: tuple[float, float],
) -> npt.NDArray[np.float64]:
    """[12, 16] a spot of 0..1; its centre and its extents lie in these parts of the image."""
    rows, columns = np.mgrid[0:1:12j, 0:1:16j]
    middle_x, middle_y, width, height = (rng.uniform(*span) for span in (x, y, across, along))
    spot = np.exp(-(((columns - middle_x) / width) ** 2) - ((rows - middle_y) / height) ** 2)
    return np.asarray(spot)


def _lit(image: Image, gain: npt.NDArray[np.float64]) -> Image:
    """The image times a small image of gains, 0 to 4."""
    # Two small images in one product: 64 is a gain of 1.
    grid = cv2.resize((64 * gain).clip(0, 255).astype(np.uint8), image.shape[1::-1])
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


def coarse(image: Image, rng: np.random.Generator) -> Image:
    """The detail of a camera of fewer pixels."""
    height, width = image.shape[:2]
    factor = rng.uniform(1.2, 2.5)
    few = (max(1, round(width / factor)), max(1, round(height / factor)))
    small = cv2.resize(image, few, interpolation=cv2.INTER_AREA)
    how = cv2.INTER_LINEAR if rng.random() < 0.5 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(small, (width, height), interpolation=how))


def recompressed(image: Image, rng: np.random.Generator) -> Image:
    """The blocks and stains of a strong JPEG or video compression."""
    quality = int(rng.integers(15, 70))
    _, encoded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    # Channels in whatever order: the same one comes back.
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))


def _shadow(image: Image, rng: np.random.Generator) -> Image:
    """Darken a random polygon: road shadows look like lane edges to a naive network."""
    height, width = image.shape[:2]
    corners = (rng.random((4, 2)) * (width, height)).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [cv2.convexHull(corners)], 255)
    dark = cv2.convertScaleAbs(image, alpha=float(rng.uniform(0.4, 0.8)))
    cv2.copyTo(dark, mask, image)
    return image

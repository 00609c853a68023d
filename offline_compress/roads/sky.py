"""Sky and far skyline of the synthetic roads."""

import cv2
import numpy as np
from numpy.typing import NDArray

from offline_compress.roads.geometry import FIXED_POINT_BITS, PinholeCamera, fixed_point
from offline_compress.roads.sprites import noise_tile
from offline_compress.roads.vehicles import Light

# Below this slope only ground can be seen, whatever the hills.
_LOWEST_SLOPE = -0.12


def draw_sky(
    camera: PinholeCamera,
    light: Light,
    zenith: NDArray[np.float64],
    clouds: float,
    yaw: float,
    seed: int,
) -> NDArray[np.uint8]:
    """Gradient, clouds (amount 0..1) and skyline, uint8 [H, W, 3] RGB; `yaw` turns it all."""
    across, up = camera.rays(0)
    rows = int(np.count_nonzero((up > _LOWEST_SLOPE).any(axis=1)))
    full = np.empty((camera.height, camera.width, 3), np.uint8)
    full[rows:] = np.clip(light.haze, 0, 255).astype(np.uint8)
    if rows < 2:
        return full
    bearing = np.arctan(across[:1]) + np.float32(yaw)
    # The sky is smooth: half the resolution is enough for it.
    image = _air(bearing[:, ::2], up[:rows:2, ::2], light, zenith, clouds, seed)
    full[:rows] = cv2.resize(image, (camera.width, rows), interpolation=cv2.INTER_LINEAR)
    rng = np.random.default_rng((24, seed))
    for layer in range(2):
        line = np.zeros_like(bearing[0])
        for wave in (3, 7, 15, 31, 67, 131):
            phase = np.float32(rng.uniform(0, 6.28))
            line += np.float32(rng.normal(0, 1) / wave**0.8) * np.sin(bearing[0] * wave + phase)
        ridge = rng.uniform(0.0, 0.05) + np.abs(line) * 0.035
        tone = np.array((70, 84, 66)) * rng.uniform(0.6, 1.2) * (light.ambient + 0.6 * light.direct)
        colour = np.clip(light.haze * (0.6 - 0.3 * layer) + tone * (0.4 + 0.3 * layer), 0, 255)
        directions = np.stack([across[0], ridge, np.ones_like(ridge)], axis=1)
        skyline = camera.image(directions @ camera.rotation.T)
        # Roll moves its ends into the picture: carry it on to both sides before closing it below.
        side = np.array((camera.width / 4, 0.0))
        first, last = skyline[0] - side, skyline[-1] + side
        deep = np.array((0.0, 2.0 * camera.height))
        outline = fixed_point(np.vstack([first, skyline, last, last + deep, first + deep]))
        cv2.fillPoly(full, [outline], colour.tolist(), cv2.LINE_AA, FIXED_POINT_BITS)
    return full


def _air(
    bearing: NDArray[np.float32],
    up: NDArray[np.float32],
    light: Light,
    zenith: NDArray[np.float64],
    clouds: float,
    seed: int,
) -> NDArray[np.uint8]:
    height = np.sqrt(np.clip(up * np.float32(2.2), 0, 1))
    amount = None
    if clouds > 0:
        flat = 60.0 / np.maximum(up + np.float32(0.08), np.float32(0.03))
        cloud = cv2.remap(
            noise_tile(7, 17),
            np.mod(bearing * flat + np.float32(seed % 511), 512),
            np.mod(flat, 512),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        amount = np.clip(cloud * 0.5 + np.float32(clouds * 1.6 - 0.8), 0, 1)
    planes = []
    for haze, top in zip(light.haze.tolist(), zenith.tolist(), strict=True):
        plane = np.float32(haze) + height * np.float32(top - haze)
        if amount is not None:
            white = np.float32(min(haze * 0.55 + 115.0, 255.0))
            plane += amount * (white * (1 - np.float32(0.12) * amount) - plane)
        planes.append(np.clip(plane, 0, 255).astype(np.uint8))
    return np.asarray(cv2.merge(planes), np.uint8)

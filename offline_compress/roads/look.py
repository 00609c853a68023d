"""Light, weather and camera of a synthetic road, and what the camera makes of the picture."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from offline_compress.roads.sprites import noise_tile
from offline_compress.roads.vehicles import Light

_MEAN_LEVEL = 104.0


@dataclass(frozen=True)
class Look:
    """Light, weather and camera quality of a world."""

    light: Light
    zenith: NDArray[np.float64]
    clouds: float
    tree_shade: float
    exposure: float
    balance: NDArray[np.float64]
    contrast: float
    noise: float
    blur: float
    vignette: float
    jpeg_quality: int
    bonnet: float
    bloom: float


@dataclass(frozen=True)
class Mount:
    """How the camera sits in the ego car."""

    fov_rad: float
    height_m: float
    yaw: float
    pitch: float
    roll: float
    x_m: float


def draw_look(rng: np.random.Generator, daylight: bool) -> Look:
    time = str(rng.choice(["clear", "overcast", "low", "dusk"], p=[0.4, 0.3, 0.15, 0.15]))
    if daylight and time == "dusk":
        time = "clear"
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = {"clear": rng.uniform(0.5, 1.2), "overcast": 1.0}.get(time, rng.uniform(0.12, 0.4))
    sun = np.array(
        [
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
            np.cos(elevation) * np.cos(azimuth),
        ]
    )
    direct, ambient, sky, haze, zenith = {
        "clear": (
            (1.0, 0.96, 0.88),
            (0.36, 0.40, 0.46),
            (176, 204, 236),
            (206, 218, 228),
            (86, 138, 206),
        ),
        "overcast": (
            (0.12, 0.12, 0.12),
            (0.82, 0.84, 0.86),
            (222, 226, 230),
            (226, 229, 232),
            (196, 204, 212),
        ),
        "low": (
            (1.2, 0.92, 0.66),
            (0.34, 0.36, 0.42),
            (214, 196, 176),
            (236, 214, 186),
            (118, 152, 200),
        ),
        "dusk": (
            (0.10, 0.08, 0.07),
            (0.26, 0.26, 0.29),
            (116, 116, 132),
            (150, 134, 132),
            (58, 66, 96),
        ),
    }[time]
    if time == "overcast" and rng.random() < 0.5:
        zenith, haze = (248, 249, 250), (246, 247, 248)
    vary = rng.uniform(0.85, 1.12)
    light = Light(
        sun=sun,
        direct=np.array(direct) * rng.uniform(0.8, 1.15),
        ambient=np.array(ambient) * vary,
        sky=np.array(sky, float),
        haze=np.array(haze, float),
        visibility_m=float(np.exp(rng.uniform(np.log(250), np.log(2500)))),
        lamps_on=time == "dusk" or rng.random() < 0.1,
    )
    return Look(
        light=light,
        zenith=np.array(zenith, float) * rng.uniform(0.85, 1.05),
        clouds=float(rng.choice([0.0, rng.uniform(0.3, 0.9)])),
        tree_shade=rng.uniform(0.25, 0.75)
        if time in ("clear", "low") and rng.random() < 0.4
        else 0,
        exposure=float(np.exp(rng.normal(0.0, 0.16))) * (1.3 if time == "dusk" else 1.0),
        balance=np.exp(rng.normal(0, 0.035, 3)),
        contrast=rng.uniform(0.95, 1.4),
        noise=rng.uniform(1.0, 5.0) * (1.6 if time == "dusk" else 1.0),
        blur=float(rng.choice([0.0, rng.uniform(0.4, 1.2)], p=[0.45, 0.55])),
        vignette=rng.uniform(0, 0.35),
        jpeg_quality=int(rng.integers(55, 97)),
        bloom=rng.uniform(0.3, 0.9) if time == "dusk" else 0.0,
        bonnet=rng.uniform(0.02, 0.10) if rng.random() < 0.25 else 0.0,
    )


def draw_mount(rng: np.random.Generator) -> Mount:
    return Mount(
        fov_rad=np.deg2rad(rng.uniform(45, 78)),
        height_m=rng.uniform(1.1, 1.75),
        yaw=rng.normal(0, 0.02),
        pitch=rng.normal(0.02, 0.045),
        roll=rng.normal(0, 0.008),
        x_m=rng.normal(0, 0.15),
    )


@lru_cache(maxsize=2)
def _grain(strength: float) -> NDArray[np.int16]:
    """Sensor noise [512, 512, 3]: mostly brightness, some colour."""
    tile = noise_tile(1, 18)
    colour = [tile, np.roll(tile, 131, axis=1), np.roll(tile, 257, axis=0)]
    grain = np.stack([0.8 * tile + 0.6 * c for c in colour], axis=2) * strength
    return np.round(grain).astype(np.int16)


@lru_cache(maxsize=4)
def _vignette(strength: float, height: int, width: int) -> NDArray[np.uint8]:
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    factor = 255 * (1 - np.float32(strength * 0.5) * (x * x + y * y))
    return np.asarray(cv2.cvtColor(factor.astype(np.uint8), cv2.COLOR_GRAY2RGB), np.uint8)


def expose(image: NDArray[np.uint8], look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What the camera makes of the light: blur, exposure, noise and compression."""
    height, width = image.shape[:2]
    picture = image
    if look.bloom:
        small = cv2.resize(picture, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        glare = cv2.GaussianBlur(cv2.subtract(small, (190, 190, 190, 0)), (0, 0), width / 240)
        glare = cv2.resize(glare, (width, height), interpolation=cv2.INTER_LINEAR)
        picture = cv2.scaleAdd(glare, look.bloom * 4, picture)
    if look.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), look.blur * max(height, width) / 800)
    if look.vignette:
        picture = cv2.multiply(picture, _vignette(look.vignette, height, width), scale=1 / 255)
    # Auto-exposure that, like a real one, only goes part of the way.
    gain = np.clip((_MEAN_LEVEL / max(float(picture[::4, ::4].mean()), 1.0)) ** 0.6, 0.75, 1.9)
    levels = np.arange(256)[:, None] * look.balance * look.exposure * gain
    curve = np.clip((levels - 118) * look.contrast + 118, 0, 255).astype(np.uint8)
    picture = cv2.LUT(picture, curve.reshape(1, 256, 3))
    grain = _grain(round(look.noise, 3))
    row, column = rng.integers(0, len(grain), 2)
    grain = np.roll(grain, (row, column), axis=(0, 1))
    repeats = (-(-height // len(grain)), -(-width // len(grain)), 1)
    picture = cv2.add(picture, np.tile(grain, repeats)[:height, :width], dtype=cv2.CV_8U)
    flags = [cv2.IMWRITE_JPEG_QUALITY, look.jpeg_quality]
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), flags)[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)

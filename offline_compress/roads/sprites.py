"""Textures of the synthetic roads, made once per process: noise, trees and facades."""

from functools import cache, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

_TILE = 512


@cache
def noise_tile(octaves: int, seed: int) -> NDArray[np.float32]:
    """Tileable noise [512, 512] with mean 0 and standard deviation 1."""
    rng = np.random.default_rng(seed)
    total = np.zeros((_TILE, _TILE), np.float32)
    for octave in range(octaves):
        cells = _TILE >> octave
        layer = rng.standard_normal((cells, cells)).astype(np.float32)
        wrapped = np.pad(layer, 2, mode="wrap")
        scale = _TILE // cells
        size = (wrapped.shape[1] * scale, wrapped.shape[0] * scale)
        grown = cv2.resize(wrapped, size, interpolation=cv2.INTER_CUBIC)
        edge = 2 * scale
        total += grown[edge : edge + _TILE, edge : edge + _TILE] * (1.0 + 0.55 * octave)
    return np.asarray((total - total.mean()) / total.std(), np.float32)


def _mip_levels(image: NDArray[np.float32], smallest: int) -> tuple[NDArray[np.uint8], ...]:
    levels = [np.clip(image, 0, 255).astype(np.uint8)]
    while levels[-1].shape[0] > smallest:
        half = cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(half, np.uint8))
    return tuple(levels)


def mip_level(levels: tuple[NDArray[np.uint8], ...], need_px: float) -> NDArray[np.uint8]:
    """The smallest level with at least `need_px` rows, so that shrinking it does not alias."""
    return next((level for level in reversed(levels) if level.shape[0] >= need_px), levels[0])


def _speckle(alpha: NDArray[np.float32], rng: np.random.Generator, amount: float) -> None:
    tile = noise_tile(4, 14)
    y, x = rng.integers(0, 512 - alpha.shape[0]), rng.integers(0, 512 - alpha.shape[1])
    alpha *= np.clip(1.15 + amount * tile[y : y + alpha.shape[0], x : x + alpha.shape[1]], 0, 1)


@lru_cache(maxsize=64)
def tree_sprite(kind: str, variant: int) -> tuple[NDArray[np.uint8], ...]:
    """Mip levels of a premultiplied RGBA sprite, largest first."""
    rng = np.random.default_rng((21, variant, len(kind)))
    size = 224
    rgba = np.zeros((size, size, 4), np.uint8)
    if kind == "bare_tree":
        _branch(rgba, rng, (size / 2, size - 1.0), -np.pi / 2, size * 0.24, 7.0)
        image = rgba.astype(np.float32)
    else:
        bush = kind == "bush"
        trunk = (70, 58, 46, 255)
        if not bush:
            for lean in rng.normal(0, 12, 3):
                start, end = (size // 2, size - 1), (int(size / 2 + lean), size // 3)
                cv2.line(rgba, start, end, trunk, int(rng.integers(4, 9)), cv2.LINE_AA)
        conifer = not bush and rng.random() < 0.25
        green = np.array((62, 84, 40)) + rng.normal(0, (14, 12, 9))
        if rng.random() < 0.15:
            green = np.array((110, 88, 44.0))
        for step in range(130):
            rise = rng.random()
            if conifer:
                reach, y = 78 * (1 - rise) + 4, size * (0.86 - 0.82 * rise)
            elif bush:
                reach, y = 96 * np.sqrt(1 - rise**2), size * (0.96 - 0.72 * rise)
            else:
                swell = np.sqrt(max(1 - (2 * rise - 1) ** 2, 0))
                reach, y = 92 * swell, size * (0.72 - 0.66 * rise)
            x = size / 2 + rng.uniform(-1, 1) * reach
            light = 0.42 + 0.75 * rise * step / 130 + 0.25 * (x / size - 0.5) + rng.normal(0, 0.1)
            colour = tuple(np.clip(green * max(light, 0.25) * 1.35, 5, 230).tolist())
            radius = int(rng.uniform(5, 17) * (0.6 if conifer else 1.0))
            cv2.circle(rgba, (int(x), int(y)), radius, (*colour, 255), -1, cv2.LINE_AA)
        image = rgba.astype(np.float32)
        alpha = image[..., 3]
        soft = cv2.GaussianBlur(alpha, (0, 0), 4)
        alpha *= np.clip(soft / 150, 0, 1)
        _speckle(alpha, rng, 0.55 if not bush else 0.3)
        tile = noise_tile(4, 15)[:size, :size, None]
        image[..., :3] = np.clip(image[..., :3] * (1 + 0.28 * tile), 0, 255)
    image[..., :3] *= image[..., 3:] / 255
    return _mip_levels(image, 14)


def _branch(
    rgba: NDArray[np.uint8],
    rng: np.random.Generator,
    start: tuple[float, float],
    angle: float,
    length: float,
    thick: float,
) -> None:
    end = (start[0] + np.cos(angle) * length, start[1] + np.sin(angle) * length)
    a, b = (round(start[0]), round(start[1])), (round(end[0]), round(end[1]))
    shade = rng.uniform(46, 84)
    colour = (shade, shade * 0.9, shade * 0.8, 255 if thick > 1.6 else 150)
    cv2.line(rgba, a, b, colour, max(round(thick), 1), cv2.LINE_AA)
    if thick < 0.9 or length < 5:
        return
    for _ in range(3 if thick > 2 else 2):
        _branch(
            rgba,
            rng,
            end,
            angle + rng.normal(0, 0.5),
            length * rng.uniform(0.62, 0.88),
            thick * 0.66,
        )


@lru_cache(maxsize=32)
def facade(variant: int, lamps_on: bool) -> tuple[NDArray[np.uint8], ...]:
    """Mip levels of a facade texture: factors on the wall's RGB colour, 128 = 1."""
    rng = np.random.default_rng((22, variant))
    size = 256
    wall = np.ones((size, size, 3), np.float32)
    wall *= 1 + 0.06 * noise_tile(4, 16)[:size, :size, None]
    if rng.random() < 0.5:
        wall[:: int(rng.integers(4, 9))] *= 0.9
    floors, bays = int(rng.integers(2, 5)), int(rng.integers(3, 8))
    storey, bay = size / floors, size / bays
    glass = np.array((0.26, 0.29, 0.33), np.float32) * rng.uniform(0.6, 1.5)
    frame = np.float32(rng.choice([1.35, 0.6]))
    wide, tall = rng.uniform(0.35, 0.8), rng.uniform(0.45, 0.7)
    for floor in range(floors):
        for column in range(bays):
            x0, y0 = (column + 0.5 - wide / 2) * bay, (floor + 0.55 - tall / 2) * storey
            x1, y1 = x0 + wide * bay, y0 + tall * storey
            ground = floor == floors - 1
            if ground and rng.random() < 0.4:
                y1 = size
            a, b, c, e = int(y0), int(y1), int(x0), int(x1)
            wall[max(a - 3, 0) : b + 3, max(c - 3, 0) : e + 3] = frame
            lit = lamps_on and rng.random() < 0.3
            wall[a:b, c:e] = (1.9, 1.75, 1.3) if lit else glass * rng.uniform(0.7, 1.9)
            if rng.random() < 0.5:
                wall[a:b, (c + e) // 2 : (c + e) // 2 + 3] = frame
    if rng.random() < 0.35:
        top = int(size - storey)
        shop = (rng.uniform(0.25, 1.0) + rng.uniform(-0.25, 0.25, 3)).astype(np.float32)
        wall[top : top + int(storey * 0.3)] = shop
    wall[:5] *= 0.6
    return _mip_levels(wall * 128, 8)

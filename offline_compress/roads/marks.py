"""What is painted on or mended in the surface of a synthetic road, besides its lines."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offline_compress.roads.world import World

_CHUNK_M = 60.0


@dataclass(frozen=True)
class PaintedShape:
    """A polygon on the road in road coordinates: absolute s and d, [n, 2]."""

    outline: NDArray[np.float64]
    tone: float | None = None  # of a repair, relative to the asphalt; None is white paint


def marks(world: World, s0: float, s1: float) -> Iterator[PaintedShape]:
    """Paint and repairs between the absolute positions s0 and s1."""
    low, high = world.road
    for middle, half, side in world.junctions_between(s0, s1):
        d = high if side > 0 else low
        if world.lines and middle - half > s0:
            for s in np.arange(middle - half, middle + half, 1.0):
                yield PaintedShape(_rectangle(s, s + 0.55, d - 0.1, d + 0.1))
    for chunk in range(int(s0 // _CHUNK_M), int(s1 // _CHUNK_M) + 1):
        rng = world.rng(2, chunk)
        start = chunk * _CHUNK_M
        yield from _repairs(rng, start, low, high)
        if not world.crossings:
            continue
        if rng.random() < 0.3:
            yield from _crossing(world, rng, start + 30.0)
        lane = int(rng.integers(world.lanes))
        d = world.side * (lane + 0.5) * world.lane_m
        pick = rng.random()
        if pick < 0.35:
            yield PaintedShape(_arrow(rng, start + rng.uniform(2, 20), d))
        elif pick < 0.55:
            yield from _letters(rng, start + rng.uniform(2, 18), d)


def _repairs(
    rng: np.random.Generator, start: float, low: float, high: float
) -> Iterator[PaintedShape]:
    for _ in range(rng.poisson(1.2)):
        s, d = start + rng.uniform(0, _CHUNK_M), rng.uniform(low + 0.5, high - 0.5)
        if rng.random() < 0.4:
            angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
            yield PaintedShape(
                np.stack([s + 0.35 * np.cos(angle), d + 0.35 * np.sin(angle)], 1), 0.6
            )
        else:
            size = rng.uniform((1.0, 0.6), (9.0, 2.6))
            corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * size
            outline = corners + rng.uniform(-0.15, 0.15, (4, 2)) + np.array((s, d))
            outline[:, 1] = np.clip(outline[:, 1], low + 0.05, high - 0.05)
            yield PaintedShape(outline, rng.uniform(0.68, 1.22))
    # Seams and cracks: thin like paint, along the road like paint, but no paint.
    for _ in range(rng.poisson(0.8)):
        along = start + np.linspace(0, rng.uniform(6, 50), 9)
        across = rng.uniform(low + 0.3, high - 0.3) + np.cumsum(rng.normal(0, 0.05, 9))
        across = np.clip(across, low + 0.1, high - 0.1)
        half = rng.uniform(0.015, 0.05)
        there = np.stack([along, across - half], axis=1)
        back = np.stack([along, across + half], axis=1)[::-1]
        yield PaintedShape(np.concatenate([there, back]), rng.choice([0.55, 0.7, 1.3]))


def _crossing(world: World, rng: np.random.Generator, s: float) -> Iterator[PaintedShape]:
    low, high = world.road
    inner, outer = sorted((0.0, world.side * world.lanes * world.lane_m))
    pick = rng.random()
    if pick < 0.5:
        step, depth = rng.uniform(0.9, 1.3), rng.uniform(2.4, 4.0)
        for d in np.arange(low + 0.4, high - 0.5, step):
            yield PaintedShape(_rectangle(s, s + depth, d, d + step / 2))
        if rng.random() < 0.4:
            for d in (low + 0.5, high - 0.6):
                yield PaintedShape(_zigzag(s - 18.0, s - 1.5, d))
    if pick > 0.3:
        width = rng.uniform(0.2, 0.45)
        yield PaintedShape(_rectangle(s - 2.5, s - 2.5 + width, inner, outer))
        if rng.random() < 0.3:
            # A box for bicycles behind a second stop line.
            yield PaintedShape(_rectangle(s - 7.0, s - 7.0 + width, inner, outer))
            yield from _letters(rng, s - 5.8, (inner + outer) / 2)


def _rectangle(s0: float, s1: float, d0: float, d1: float) -> NDArray[np.float64]:
    middle = (d0 + d1) / 2
    return np.array(
        [(s0, d0), (s0, middle), (s0, d1), (s1, d1), (s1, middle), (s1, d0)], np.float64
    )


def _zigzag(s0: float, s1: float, d: float) -> NDArray[np.float64]:
    s = np.linspace(s0, s1, 9)
    across = d + 0.22 * np.where(np.arange(9) % 2, 1, -1)
    edges = [np.stack([s, across], axis=1), np.stack([s[::-1], across[::-1] + 0.12], axis=1)]
    return np.concatenate(edges)


def _letters(rng: np.random.Generator, s: float, d: float) -> Iterator[PaintedShape]:
    """Stretched letters as seen from a car: strokes of a seven-segment display."""
    count, tall, wide = int(rng.integers(2, 5)), rng.uniform(1.4, 2.6), 0.42
    stroke, bar = 0.1, tall * 0.12
    for letter in range(count):
        left = d + (letter - count / 2) * (wide + 0.14)
        right = left + wide
        strokes = [
            (s, s + tall / 2, left, left + stroke),
            (s + tall / 2, s + tall, left, left + stroke),
            (s, s + tall / 2, right - stroke, right),
            (s + tall / 2, s + tall, right - stroke, right),
            (s, s + bar, left, right),
            (s + (tall - bar) / 2, s + (tall + bar) / 2, left, right),
            (s + tall - bar, s + tall, left, right),
        ]
        for index in rng.permutation(len(strokes))[: int(rng.integers(4, 7))]:
            yield PaintedShape(_rectangle(*strokes[index]))


def _arrow(rng: np.random.Generator, s: float, d: float) -> NDArray[np.float64]:
    length = rng.uniform(3.0, 5.0)
    head, stem = length * 0.4, 0.1
    shape = [
        (0, -stem),
        (length - head, -stem),
        (length - head, -0.35),
        (length, 0),
        (length - head, 0.35),
        (length - head, stem),
        (0, stem),
    ]
    if rng.random() < 0.5:
        bend = float(rng.choice([-1, 1]))
        shape = [
            (0, -stem * bend),
            (length, -stem * bend),
            (length, 0.45 * bend),
            (length + 0.5, 0.45 * bend),
            (length - 0.3, 1.0 * bend),
            (length - 1.1, 0.45 * bend),
            (length - 0.6, 0.45 * bend),
            (length - 0.6, stem * bend),
            (0, stem * bend),
        ]
    return np.array(shape, np.float64) + np.array((s, d))

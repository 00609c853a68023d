"""What stands beside a synthetic road: where, and how it looks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from offline_compress.roads.world import World

_CHUNK_M = 24.0


@dataclass(frozen=True)
class Thing:
    """A piece of scenery, standing at absolute s and d."""

    kind: str  # "building", "tree", "bare_tree", "bush", "pole", "sign", "person", "cyclist"
    s: float
    d: float
    size: tuple[float, float, float]  # width along the road, height, depth away from it
    variant: int
    tint: tuple[float, float, float]


def things(world: World, s0: float, s1: float) -> Iterator[Thing]:
    """Scenery between the absolute positions s0 and s1."""
    for chunk in range(int(s0 // _CHUNK_M), int(s1 // _CHUNK_M) + 1):
        for edge in (-1, 1):
            yield from _stretch(world, chunk, edge)


@lru_cache(maxsize=512)
def _stretch(world: World, chunk: int, edge: int) -> tuple[Thing, ...]:
    """The scenery of one stretch on one side (-1 left, +1 right), clear of side roads."""
    return tuple(
        thing
        for thing in _grow(world, chunk, edge)
        if not world.in_side_road(thing.s, thing.s + thing.size[0], thing.d)
    )


def _grow(world: World, chunk: int, edge: int) -> Iterator[Thing]:
    rng = world.rng(1, chunk, edge)
    start = chunk * _CHUNK_M
    left, right = world.verge
    near = right if edge > 0 else left
    outer = edge * near
    grey = rng.uniform(0.75, 1.15)
    if rng.random() < world.buildings:
        height = rng.uniform(4.0, 16.0 if world.style == "urban" else 8.0)
        set_back = 0.0 if world.style == "urban" else rng.uniform(1.0, 9.0)
        width = _CHUNK_M * rng.uniform(0.55, 1.0)
        tint = rng.choice(
            [(196, 170, 140), (160, 98, 78), (205, 200, 190), (140, 138, 134), (214, 192, 150)]
        ) * rng.uniform(0.7, 1.1)
        yield Thing(
            "building",
            start,
            outer + edge * set_back,
            (width, height, rng.uniform(6, 12)),
            int(rng.integers(1 << 20)),
            tuple(tint),
        )
        trees = rng.poisson(0.5)
    else:
        trees = rng.poisson(2.6 if world.style in ("rural", "town") else 1.6)
    for _ in range(trees):
        kind = "bare_tree" if rng.random() < world.leafless else "tree"
        height = rng.uniform(4, 13)
        yield Thing(
            kind,
            start + rng.uniform(0, _CHUNK_M),
            outer + edge * abs(rng.normal(2.0, 9.0)),
            (height * rng.uniform(0.6, 1.0), height, 0.0),
            int(rng.integers(1 << 20)),
            tuple(np.array((1, 1, 1)) * grey + rng.uniform(-0.12, 0.12, 3)),
        )
    if rng.random() < 0.5:
        yield Thing(
            "bush",
            start + rng.uniform(0, _CHUNK_M),
            outer + edge * rng.uniform(0.5, 5),
            (rng.uniform(2, 6), rng.uniform(0.8, 2.4), 0.0),
            int(rng.integers(1 << 20)),
            tuple(np.array((1, 1, 1)) * grey),
        )
    if chunk % 2 == 0 and rng.random() < 0.75:
        yield Thing(
            "pole",
            start,
            edge * (near - rng.uniform(0.2, 0.9)),
            (0.16, rng.uniform(6, 9), 1.8 * rng.integers(0, 2)),
            0,
            (90, 92, 94),
        )
    if rng.random() < 0.3:
        yield Thing(
            "sign",
            start + 9,
            edge * (near - 0.5),
            (rng.uniform(0.6, 1.0), rng.uniform(2.0, 2.8), 0.0),
            int(rng.integers(6)),
            (1, 1, 1),
        )
    if world.style in ("urban", "town"):
        for _ in range(rng.poisson(0.7 if world.style == "urban" else 0.25)):
            yield Thing(
                "person",
                start + rng.uniform(0, _CHUNK_M),
                edge * (near - rng.uniform(0.3, 1.6)),
                (0.5, rng.uniform(1.55, 1.9), 0.0),
                int(rng.integers(1 << 20)),
                tuple(rng.uniform(25, 130) + rng.uniform(-22, 22, 3)),
            )
        if rng.random() < 0.12:
            edge_d = world.road[1] if edge > 0 else -world.road[0]
            yield Thing(
                "cyclist",
                start + rng.uniform(0, _CHUNK_M),
                edge * (edge_d - rng.uniform(0.5, 1.0)),
                (0.5, rng.uniform(1.65, 1.85), 0.0),
                int(rng.integers(1 << 20)),
                tuple(rng.uniform(25, 180) + rng.uniform(-25, 25, 3)),
            )

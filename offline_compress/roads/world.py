"""What stands where along a synthetic road: an endless world that is a pure function of its seed.

Nothing is simulated step by step: where a vehicle or a tree is follows from the seed and the time
alone, so any frame of a drive can be rendered on its own, in any order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from offline_compress.roads.geometry import RoadShape
from offline_compress.roads.meshes import KINDS
from offline_compress.roads.vehicles import Paintwork

JUNCTION_M = 90.0
STYLES = ("urban", "town", "rural", "highway")
_BODY_COLOURS = np.array(
    [
        (228, 229, 230),
        (226, 227, 229),
        (196, 199, 203),
        (150, 153, 158),
        (92, 95, 100),
        (48, 50, 54),
        (26, 27, 30),
        (28, 29, 33),
        (150, 24, 26),
        (36, 62, 118),
        (58, 84, 112),
        (44, 74, 58),
        (148, 132, 104),
        (196, 156, 40),
        (190, 84, 30),
    ],
    float,
)


@dataclass(frozen=True)
class GroundStrip:
    """A band of ground along the road from d0 to d1 (metres right of the centre line)."""

    d0: float
    d1: float
    colour: tuple[float, float, float]
    grain: float


@dataclass(frozen=True)
class LaneLine:
    """A painted line along the road; `dash` is (painted, period, phase) in metres."""

    d: float
    width_m: float
    yellow: bool
    dash: tuple[float, float, float] | None


@dataclass(frozen=True)
class Vehicle:
    """A vehicle at relative s, d at one moment; heading relative to the road."""

    s: float
    d: float
    heading: float
    kind: str
    variant: int
    paint: Paintwork


@dataclass(frozen=True, eq=False)
class World:
    """A road and everything along it. `side` is +1 in right-hand traffic, -1 in left-hand.

    Compared by identity, so that what stands in a stretch of it can be looked up in a cache.
    """

    seed: int
    style: str
    side: int
    shape: RoadShape
    lane_m: float
    lanes: int
    oncoming: int
    ego_lane: int
    strips: tuple[GroundStrip, ...]
    lines: tuple[LaneLine, ...]
    drivable: tuple[tuple[float, float], ...]  # bands of d
    road: tuple[float, float]  # own carriageway
    opposite: tuple[float, float] | None  # oncoming carriageway behind a median
    parking: tuple[float, ...]  # d of the rows of parked cars
    parking_density: float
    verge: tuple[float, float]  # distance of the scenery from the road, left and right
    barriers: tuple[tuple[float, str], ...]
    asphalt: tuple[float, float, float]
    terrain: tuple[float, float, float]
    terrain_grain: float
    traffic_gap_m: float
    ego_speed: float
    crossings: bool
    leafless: float
    buildings: float
    wear: float
    junctions: float  # chance of a side road every JUNCTION_M

    @property
    def ego_d(self) -> float:
        """Lateral position of the ego lane's middle."""
        return self.side * (self.ego_lane + 0.5) * self.lane_m

    def rng(self, *key: int) -> np.random.Generator:
        """A generator of its own for one thing of this world; keys may be negative."""
        return np.random.default_rng((self.seed, *(k & 0xFFFFFFFF for k in key)))

    def junctions_between(self, s0: float, s1: float) -> Iterator[tuple[float, float, int]]:
        """Side roads between absolute s0 and s1: middle, half width and side (+1 right)."""
        if not self.junctions:
            return
        for chunk in range(int(s0 // JUNCTION_M), int(s1 // JUNCTION_M) + 1):
            for side in (-1, 1):
                found = _junction(self, chunk, side)
                if found:
                    yield (*found, side)

    def in_side_road(self, s0: float, s1: float, d: float) -> bool:
        """Whether something at d over the absolute span (s0, s1) would stand in a side road."""
        return any(
            s1 > middle - half - 1.5 and s0 < middle + half + 1.5 and d * side > 0
            for middle, half, side in self.junctions_between(s0 - 10, s1 + 10)
        )

    def side_roads(self, ego_s: float, reach_m: float) -> Iterator[NDArray[np.float64]]:
        """Outlines of the side roads ahead in absolute road coordinates [n, 2]."""
        for middle, half, side in self.junctions_between(ego_s - 8, ego_s + min(reach_m, 200)):
            edge = self.road[1] if side > 0 else -self.road[0]
            mouth = [(half + 4, -0.3), (half + 1.2, 0.9), (half, 3.5), (half, 60.0)]
            near = [(middle - ds, side * (edge + dd)) for ds, dd in mouth]
            far = [(middle + ds, side * (edge + dd)) for ds, dd in reversed(mouth)]
            yield np.array(near + far)

    def between_side_roads(self, span: tuple[float, float], d: float) -> list[tuple[float, float]]:
        """The absolute span (s0, s1), for an edge line at d cut open at the side roads."""
        start, end = span
        spans = []
        low, high = self.road
        for middle, half, side in sorted(self.junctions_between(start - 10, end + 10)):
            edge = high if side > 0 else low
            if abs(d - edge) < 0.9:
                spans.append((start, middle - half - 2))
                start = middle + half + 2
        return [*spans, (start, end)]

    def vehicles(self, time_s: float, ego_s: float, reach_m: float) -> Iterator[Vehicle]:
        """Every other vehicle near the ego car at `time_s`, relative to it."""
        for lane in range(self.lanes):
            speed = self._lane_speed(lane, 3)
            d = self.side * (lane + 0.5) * self.lane_m
            clear = 14.0 if lane == self.ego_lane else 0.0
            yield from self._flow(lane, 3, d, speed, time_s, ego_s, reach_m, clear)
        for lane in range(self.oncoming):
            speed = -self._lane_speed(lane, 4)
            gap = 0.0 if self.opposite is None else self._median()
            d = -self.side * (gap + (lane + 0.5) * self.lane_m)
            yield from self._flow(lane, 4, d, speed, time_s, ego_s, reach_m, 0.0)
        for row, d in enumerate(self.parking):
            first, last = int((ego_s - 12) // 6.5), int((ego_s + min(reach_m, 140)) // 6.5)
            for slot in range(first, last + 1):
                rng = self.rng(5, row, slot)
                if rng.random() > self.parking_density:
                    continue
                s = slot * 6.5 + rng.uniform(-0.5, 0.5) - ego_s
                if self.in_side_road(ego_s + s - 4, ego_s + s + 4, d):
                    continue
                facing = 0.0 if (d * self.side > 0 or rng.random() < 0.3) else np.pi
                kind = str(rng.choice(["sedan", "hatchback", "suv", "van"]))
                where = d + rng.normal(0, 0.12)
                yield Vehicle(s, where, facing + rng.normal(0, 0.03), kind, *_looks(rng, kind))

    def _median(self) -> float:
        assert self.opposite is not None
        return min(abs(self.opposite[0]), abs(self.opposite[1]))

    def _lane_speed(self, lane: int, flow: int) -> float:
        """Lanes flow at their own speed; the ego car's lane keeps the ego car's."""
        if flow == 3 and lane == self.ego_lane:
            return self.ego_speed
        return self.ego_speed * float(self.rng(6, flow, lane).uniform(0.85, 1.12))

    def _flow(
        self,
        lane: int,
        flow: int,
        d: float,
        speed: float,
        time_s: float,
        ego_s: float,
        reach_m: float,
        clear_m: float,
    ) -> Iterator[Vehicle]:
        gap = self.traffic_gap_m * float(self.rng(7, flow, lane).uniform(0.7, 1.6))
        gap = max(gap, 17.0)
        base = ego_s - speed * time_s
        first, last = int((base - 25) // gap), int((base + reach_m) // gap)
        for slot in range(first, last + 1):
            rng = self.rng(8, flow, lane, slot)
            if rng.random() < 0.25:
                continue
            phase, period = rng.uniform(0, 6.28), rng.uniform(7, 16)
            spread = 0.5 * (gap - 15.0)
            wander = min(0.15 * spread, 1.5) * np.sin(phase + 6.28 * time_s / period)
            mean = slot * gap + rng.uniform(-0.7, 0.7) * spread - base
            weights = [0.3, 0.25, 0.2, 0.11, 0.05, 0.09]
            kind = str(rng.choice(KINDS, p=weights))
            looks = _looks(rng, kind)
            sway = rng.normal(0, 0.2)
            if abs(mean) < clear_m:
                continue
            heading = (0.0 if speed > 0 else np.pi) + rng.normal(0, 0.008)
            yield Vehicle(mean + wander, d + sway, heading, kind, *looks)


@lru_cache(maxsize=256)
def _junction(world: World, chunk: int, side: int) -> tuple[float, float] | None:
    """Middle and half width of the side road in a stretch, if there is one."""
    rng = world.rng(12, chunk, side)
    if rng.random() >= world.junctions:
        return None
    return (chunk + rng.uniform(0.2, 0.8)) * JUNCTION_M, rng.uniform(2.6, 4.2)


def _looks(rng: np.random.Generator, kind: str) -> tuple[int, Paintwork]:
    body = rng.choice(_BODY_COLOURS) * rng.uniform(0.85, 1.1)
    if kind in ("bus", "van") and rng.random() < 0.5:
        body = np.array((225.0, 226, 227)) * rng.uniform(0.9, 1.08)
    cargo = rng.choice([(214, 214, 210), (170, 172, 174), (60, 84, 120), (150, 60, 44)])
    paint = Paintwork(
        tuple(np.clip(body + rng.normal(0, 5, 3), 8, 245)),
        tuple(np.clip(cargo * rng.uniform(0.8, 1.1), 0, 240)),
        tuple(np.full(3, rng.uniform(35, 80))),
        float(rng.uniform(14, 52)),
        bool(rng.random() < 0.25),
    )
    return int(rng.integers(24)), paint

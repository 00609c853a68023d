"""Vehicle shapes of the synthetic roads: small meshes lofted from a few measures."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

KINDS = ("sedan", "hatchback", "suv", "van", "bus", "truck")
BODY, GLASS, BLACK, TYRE, RIM, RED, WHITE, PLATE, TRIM, CARGO, AMBER = range(11)


@dataclass(frozen=True)
class Mesh:
    """Faces of a vehicle in its own frame (x right, y up, z forward, origin on the ground)."""

    points: NDArray[np.float64]  # [n, 3] the corners of all faces, anticlockwise from outside
    counts: NDArray[np.int64]  # [faces] corners of each face
    starts: NDArray[np.int64]  # [faces] index of its first corner
    centres: NDArray[np.float64]  # [faces, 3]
    normals: NDArray[np.float64]  # [faces, 3]
    materials: NDArray[np.int64]  # [faces]
    layers: NDArray[np.int64]  # painter's layer: decals lie on the faces below them
    hull: NDArray[np.float64]  # [n, 3] points whose shadow is the vehicle's shadow
    length_m: float
    width_m: float


class _Builder:
    def __init__(self) -> None:
        self.faces: list[NDArray[np.float64]] = []
        self.materials: list[int] = []
        self.layers: list[int] = []

    def add(self, points: list[tuple[float, float, float]], material: int, layer: int = 0) -> None:
        self.faces.append(np.array(points, np.float64))
        self.materials.append(material)
        self.layers.append(layer)

    def mirrored(self, points: list[tuple[float, float, float]], material: int, layer: int) -> None:
        """Add a face and its twin on the other side of the vehicle."""
        self.add(points, material, layer)
        self.add([(-x, y, z) for x, y, z in reversed(points)], material, layer)

    def loft(
        self,
        stations: list[tuple[float, list[tuple[float, float]]]],
        side: list[int],
        top: list[int],
        layer: int = 0,
    ) -> None:
        """Skin between cross-sections (z, [(half width, y) bottom to top]), closed at both ends."""
        for index, ((z0, low), (z1, high)) in enumerate(pairwise(stations)):
            for j in range(len(low) - 1):
                (a, ya), (b, yb) = low[j], low[j + 1]
                (c, yc), (d, yd) = high[j + 1], high[j]
                self.mirrored([(a, ya, z0), (d, yd, z1), (c, yc, z1), (b, yb, z0)], side[j], layer)
            (b, yb), (c, yc) = low[-1], high[-1]
            self.add([(-b, yb, z0), (b, yb, z0), (c, yc, z1), (-c, yc, z1)], top[index], layer)
        for z, section in (stations[0], stations[-1]):
            for j in range(len(section) - 1):
                (a, ya), (b, yb) = section[j], section[j + 1]
                band = [(-a, ya, z), (a, ya, z), (b, yb, z), (-b, yb, z)]
                if z == stations[-1][0]:
                    band.reverse()
                self.add(band, side[j], layer)

    def wheels(self, half: float, z_axles: tuple[float, ...], radius: float) -> None:
        angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        for z in z_axles:
            for scale, material, layer, inset in (
                (1.18, BLACK, 1, 0.004),
                (1.0, TYRE, 2, 0.008),
                (0.62, RIM, 3, 0.012),
            ):
                r = radius * scale
                self.mirrored(
                    [
                        (half + inset, max(radius + r * np.sin(a), 0.0), z + r * np.cos(a))
                        for a in angles
                    ],
                    material,
                    layer,
                )
            for sign in (-1, 1):
                x0, x1 = sorted((sign * half * 0.97, sign * (half - 0.24)))
                tread = [(x0, 0.0), (x1, 0.0), (x1, radius), (x0, radius)]
                self.add([(x, y, z - radius * 0.8) for x, y in tread], TYRE, -1)
                self.add([(x, y, z + radius * 0.8) for x, y in reversed(tread)], TYRE, -1)

    def build(self, length: float, width: float) -> Mesh:
        normals = []
        for face in self.faces:
            # Newell's method: robust for the slightly bent quads of a loft.
            following = np.roll(face, -1, axis=0)
            normal = np.cross(face, following).sum(axis=0)
            normals.append(normal / max(np.linalg.norm(normal), 1e-9))
        counts = np.array([len(face) for face in self.faces])
        solid = [f for f, layer in zip(self.faces, self.layers, strict=True) if layer <= 0]
        return Mesh(
            points=np.concatenate(self.faces),
            counts=counts,
            starts=np.cumsum(counts) - counts,
            centres=np.array([face.mean(axis=0) for face in self.faces]),
            normals=-np.array(normals),
            materials=np.array(self.materials),
            layers=np.array(self.layers),
            hull=np.concatenate(solid),
            length_m=length,
            width_m=width,
        )


def _end(
    builder: _Builder, z: float, rear: bool, rect: tuple[float, float, float, float], material: int
) -> None:
    """A rectangle (x0, x1, y0, y1) on the rear or front end, mirrored to the other side."""
    x0, x1, y0, y1 = rect
    z = z - 0.015 if rear else z + 0.015
    points = [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]
    builder.mirrored(points if rear else points[::-1], material, 4)


def _car(kind: str, rng: np.random.Generator) -> Mesh:
    length, width, height = {
        "sedan": (4.6, 1.82, 1.45),
        "hatchback": (4.1, 1.76, 1.50),
        "suv": (4.6, 1.90, 1.72),
        "van": (5.2, 2.0, 2.1),
    }[kind]
    length *= rng.uniform(0.94, 1.06)
    width *= rng.uniform(0.97, 1.04)
    height *= rng.uniform(0.96, 1.05)
    half, belt = width / 2, height * (0.64 if kind != "van" else 0.55)
    bonnet = belt * rng.uniform(0.86, 0.94)
    boot = belt * (1.0 if kind != "sedan" else 0.99)
    sill = 0.2 if kind != "suv" else 0.28
    end = length / 2

    def section(scale: float, top: float) -> list[tuple[float, float]]:
        w = half * scale
        return [
            (w * 0.92, sill),
            (w * 0.99, sill + (top - sill) * 0.28),
            (w, sill + (top - sill) * 0.55),
            (w * 0.97, sill + (top - sill) * 0.86),
            (w * 0.88, top),
        ]

    builder = _Builder()
    builder.loft(
        [
            (-end, section(0.88, boot * 0.93)),
            (-end + 0.14, section(0.97, boot)),
            (-end * 0.55, section(1.0, belt)),
            (end * 0.45, section(1.0, belt)),
            (end - 0.3, section(0.96, bonnet)),
            (end, section(0.84, bonnet * 0.82)),
        ],
        [TRIM if rng.random() < 0.4 else BODY, BODY, BODY, BODY],
        [BODY] * 5,
    )
    # Greenhouse: glass base and roof positions decide the silhouette.
    rear_base, rear_roof = {
        "sedan": (-0.36, -0.16),
        "hatchback": (-0.485, -0.38),
        "suv": (-0.485, -0.42),
        "van": (-0.49, -0.47),
    }[kind]
    front_roof, front_base = {"sedan": (0.08, 0.26), "van": (0.24, 0.42)}.get(kind, (0.10, 0.27))
    base, roof = half * 0.87, half * (0.70 if kind != "van" else 0.82)
    panel = kind == "van" and rng.random() < 0.6
    rounded = height - 0.07
    side_glass = BODY if panel else GLASS
    zs = [length * f for f in (rear_base, rear_roof, front_roof, front_base)]
    builder.loft(
        [
            (zs[0], [(base, belt - 0.02), (base * 0.999, belt)]),
            (zs[1], [(base, belt - 0.02), (roof, rounded)]),
            (zs[1] + 0.15, [(base, belt - 0.02), (roof * 0.95, height)]),
            (zs[2] - 0.15, [(base, belt - 0.02), (roof * 0.95, height)]),
            (zs[2], [(base, belt - 0.02), (roof, rounded)]),
            (zs[3], [(base, belt - 0.02), (base * 0.999, belt)]),
        ],
        [side_glass],
        [BODY if panel and rng.random() < 0.5 else GLASS, BODY, BODY, BODY, GLASS],
        layer=1,
    )
    for z0, z1, lean in (
        (zs[1], zs[1] + 0.12, 0),
        (0.02 * length, 0.02 * length + 0.09, 0),
        (zs[0], zs[1], 1),
        (zs[3], zs[2], 1),
    ):
        # Pillars: body-coloured strips over the side glass.
        if lean:
            thick = 0.09 if z0 < z1 else -0.09
            strip = [
                (base, belt, z0),
                (roof, rounded, z1),
                (roof, rounded, z1 + thick),
                (base, belt, z0 + thick * 1.6),
            ]
        else:
            strip = [
                (base, belt, z0),
                (roof, rounded, z0),
                (roof, rounded, z1),
                (base, belt, z1),
            ]
        if strip[0][2] < strip[3][2]:
            strip.reverse()
        builder.mirrored([(x + 0.01, y, z) for x, y, z in strip], BODY, 3)
    radius = height * 0.215 if kind != "van" else 0.34
    builder.wheels(half * 0.985, (-length * 0.3, length * 0.31), radius)
    low, high = sill + (boot - sill) * 0.5, boot * rng.uniform(0.86, 0.92)
    tail = rng.uniform(0.16, 0.34)
    _end(builder, -end, True, (half * (0.82 - tail), half * 0.85, low, high), RED)
    if rng.random() < 0.6:
        _end(builder, -end, True, (half * 0.70, half * 0.84, low, low + 0.09), AMBER)
    plate = sill + (boot - sill) * rng.choice([0.28, 0.52])
    _end(builder, -end, True, (-0.26, 0.26, plate, plate + 0.12), PLATE)
    _end(builder, -end, True, (-half * 0.8, half * 0.8, sill - 0.02, sill + 0.13), BLACK)
    top = bonnet * 0.80
    _end(builder, end, False, (half * 0.46, half * 0.82, top - 0.18, top - 0.03), WHITE)
    _end(builder, end, False, (-half * 0.42, half * 0.42, top - 0.22, top - 0.04), BLACK)
    _end(builder, end, False, (-half * 0.6, half * 0.6, sill, sill + 0.14), BLACK)
    _end(builder, end, False, (-0.26, 0.26, sill + 0.15, sill + 0.26), PLATE)
    mirror = [
        (half * 0.95, belt, front_base * length - 0.45),
        (half * 1.13, belt, front_base * length - 0.45),
        (half * 1.13, belt + 0.15, front_base * length - 0.45),
        (half * 0.95, belt + 0.15, front_base * length - 0.45),
    ]
    builder.mirrored(mirror, BLACK, 0)
    builder.mirrored([(x, y, z + 0.02) for x, y, z in mirror[::-1]], BODY, 0)
    return builder.build(length, width)


def _box_section(half: float, low: float, high: float) -> list[tuple[float, float]]:
    return [(half * 0.98, low), (half, low + 0.15), (half, high - 0.25), (half * 0.94, high)]


def _bus(rng: np.random.Generator) -> Mesh:
    length, half, height = rng.uniform(9.5, 12.0), 1.27, rng.uniform(2.95, 3.3)
    end = length / 2
    builder = _Builder()
    builder.loft(
        [
            (-end, _box_section(half * 0.97, 0.35, height * 0.985)),
            (-end + 0.2, _box_section(half, 0.3, height)),
            (end - 0.25, _box_section(half, 0.3, height)),
            (end, _box_section(half * 0.96, 0.32, height * 0.98)),
        ],
        [TRIM, BODY, BODY],
        [BODY] * 3,
    )
    count = int(length // 1.5)
    edges = np.linspace(-end + 0.4, end - 0.3, count + 1)
    for z0, z1 in pairwise(edges):
        x, y0, y1 = half + 0.01, height * 0.45, height * 0.83
        builder.mirrored(
            [(x, y0, z0 + 0.05), (x, y0, z1 - 0.05), (x, y1, z1 - 0.05), (x, y1, z0 + 0.05)],
            GLASS,
            2,
        )
    builder.wheels(half, (-length * 0.27, length * 0.30), 0.48)
    _end(builder, -end, True, (-half * 0.78, half * 0.78, height * 0.52, height * 0.84), GLASS)
    _end(builder, -end, True, (half * 0.74, half * 0.93, height * 0.24, height * 0.38), RED)
    _end(builder, -end, True, (-half * 0.7, half * 0.7, height * 0.16, height * 0.34), TRIM)
    _end(builder, -end, True, (-0.26, 0.26, 0.5, 0.62), PLATE)
    _end(builder, end, False, (-half * 0.86, half * 0.86, height * 0.36, height * 0.80), GLASS)
    _end(builder, end, False, (-half * 0.6, half * 0.6, height * 0.84, height * 0.93), BLACK)
    _end(builder, end, False, (half * 0.6, half * 0.88, height * 0.2, height * 0.27), WHITE)
    _end(builder, end, False, (-0.26, 0.26, 0.45, 0.57), PLATE)
    return builder.build(length, 2 * half)


def _truck(rng: np.random.Generator) -> Mesh:
    length = rng.uniform(6.0, 11.0)
    half, height = rng.uniform(1.05, 1.27), rng.uniform(2.7, 3.8)
    end, cab = length / 2, rng.uniform(1.6, 2.0)
    cab_height = min(rng.uniform(2.2, 2.9), height)
    builder = _Builder()
    builder.loft(
        [
            (end - cab, _box_section(half * 0.96, 0.45, cab_height)),
            (end - 0.5, _box_section(half * 0.96, 0.45, cab_height)),
            (end, _box_section(half * 0.93, 0.45, cab_height * 0.94)),
        ],
        [TRIM, BODY, BODY],
        [BODY, BODY],
    )
    floor, wall = 0.95, half * 0.998
    section = [(wall, floor), (wall, height - 0.05), (wall * 0.99, height)]
    back = end - cab - 0.15
    builder.loft([(-end, section), (back, section)], [CARGO, CARGO], [CARGO], layer=0)
    beam = [(half * 0.55, 0.5), (half * 0.55, floor)]
    builder.loft([(-end + 0.2, beam), (back, beam)], [BLACK], [BLACK], layer=-1)
    builder.wheels(half * 0.98, (-length * 0.3, end - cab * 0.55), 0.46)
    _end(builder, -end, True, (-half, half, floor - 0.12, floor), BLACK)
    _end(builder, -end, True, (half * 0.68, half * 0.95, 0.72, 0.86), RED)
    _end(builder, -end, True, (-half * 0.92, half * 0.92, 0.45, 0.58), TRIM)
    _end(builder, -end, True, (-0.26, 0.26, 0.62, 0.74), PLATE)
    _end(builder, -end, True, (-0.02, 0.02, floor, height - 0.1), BLACK)
    _end(builder, end, False, (-half * 0.8, half * 0.8, cab_height * 0.56, cab_height * 0.9), GLASS)
    _end(builder, end, False, (half * 0.58, half * 0.85, 0.7, 0.86), WHITE)
    _end(builder, end, False, (-half * 0.55, half * 0.55, 0.8, 1.15), BLACK)
    x, y0, y1 = half * 0.965, cab_height * 0.55, cab_height * 0.87
    z0, z1 = end - cab * 0.75, end - 0.35
    builder.mirrored([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], GLASS, 2)
    return builder.build(length, 2 * half)


@lru_cache(maxsize=256)
def vehicle_mesh(kind: str, variant: int) -> Mesh:
    """One of the endless variants of a kind of vehicle; the same numbers give the same mesh."""
    rng = np.random.default_rng((KINDS.index(kind), variant))
    if kind == "bus":
        return _bus(rng)
    if kind == "truck":
        return _truck(rng)
    return _car(kind, rng)

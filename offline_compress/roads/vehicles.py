"""Light on the synthetic roads, and vehicles drawn in it with anti-aliasing."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from offline_compress.roads.geometry import (
    FIXED_POINT_BITS,
    NEAR_M,
    PinholeCamera,
    clip_near,
    fixed_point,
)
from offline_compress.roads.meshes import (
    AMBER,
    BLACK,
    BODY,
    CARGO,
    GLASS,
    PLATE,
    RED,
    RIM,
    TRIM,
    TYRE,
    WHITE,
    Mesh,
)
from offline_compress.roads.sprites import noise_tile

# How much of the sky a material mirrors.
_MIRROR = np.zeros(11)
_MIRROR[[BODY, GLASS, RIM, CARGO]] = 0.14, 0.38, 0.2, 0.03


@dataclass(frozen=True)
class Light:
    """Illumination of a scene: colours are linear factors for a white surface."""

    sun: NDArray[np.float64]  # unit vector towards the sun, ego frame at heading 0
    direct: NDArray[np.float64]  # [3] RGB
    ambient: NDArray[np.float64]  # [3] RGB
    sky: NDArray[np.float64]  # [3] RGB 0..255, what shiny things mirror
    haze: NDArray[np.float64]  # [3] RGB 0..255
    visibility_m: float
    lamps_on: bool

    def shade(self, normals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Light [n, 3] on surfaces with ego-frame unit normals [n, 3]."""
        sun = np.maximum(normals @ self.sun, 0.0)[:, None] * self.direct
        bounce = 0.10 * self.direct * max(self.sun[1], 0.0)
        return sun + bounce + self.ambient * (0.68 + 0.32 * normals[:, 1:2])

    def through_haze(self, colour: NDArray[np.float64], distance_m: float) -> NDArray[np.float64]:
        """Blend RGB colours [..., 3] with the haze between them and the camera."""
        clear = np.exp(-distance_m / self.visibility_m)
        return colour * clear + self.haze * (1 - clear)


@dataclass(frozen=True)
class Paintwork:
    """Colours of one vehicle, RGB 0..255."""

    body: tuple[float, float, float]
    cargo: tuple[float, float, float]
    trim: tuple[float, float, float]
    glass: float
    braking: bool


def _colours(paint: Paintwork) -> NDArray[np.float64]:
    table = np.zeros((11, 3))
    table[BODY], table[CARGO], table[TRIM] = paint.body, paint.cargo, paint.trim
    table[GLASS] = (paint.glass, paint.glass * 1.05, paint.glass * 1.1)
    table[BLACK], table[TYRE], table[RIM] = (22, 22, 24), (26, 26, 27), (120, 122, 126)
    table[RED], table[WHITE], table[AMBER] = (150, 22, 24), (205, 208, 210), (170, 95, 40)
    table[PLATE] = (200, 198, 180)
    return table


def draw_vehicle(
    mesh: Mesh,
    paint: Paintwork,
    place: tuple[NDArray[np.float64], float],
    camera: PinholeCamera,
    light: Light,
) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
    """Rasterise a vehicle standing at (ego position [3], heading).

    Returns (premultiplied RGBA uint8 [h, w, 4], (left, top)), or None if out of sight.
    """
    position, heading = place
    cos, sin = np.cos(heading), np.sin(heading)
    to_ego = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    counts, starts = mesh.counts, mesh.starts
    points = mesh.points @ to_ego.T + position
    seen = camera.to_camera(points)
    if seen[:, 2].max() < NEAR_M:
        return None
    if seen[:, 2].min() < NEAR_M:
        cut = [
            camera.image(clip_near(seen[i : i + n])) for i, n in zip(starts, counts, strict=True)
        ]
        counts = np.array([len(outline) for outline in cut])
        pixels = np.concatenate(cut)
    else:
        pixels = camera.image(seen)
    left, top = np.maximum(np.floor(pixels.min(axis=0)).astype(int), 0)
    right = min(int(np.ceil(pixels[:, 0].max())), camera.width)
    bottom = min(int(np.ceil(pixels[:, 1].max())), camera.height)
    if right <= left or bottom <= top:
        return None
    centres = mesh.centres @ to_ego.T + position
    normals = mesh.normals @ to_ego.T
    eye = np.array([camera.x_m, camera.height_m, 0.0])
    sight = eye - centres
    distance = np.linalg.norm(sight, axis=1)
    towards = np.einsum("ij,ij->i", normals, sight) / np.maximum(distance, 1e-6)
    scale = 4 if max(right - left, bottom - top) < 120 else 2
    canvas = np.zeros(((bottom - top) * scale, (right - left) * scale, 4), np.uint8)

    base = _colours(paint)[mesh.materials]
    lit = base * light.shade(normals)
    grazing = 1 - np.abs(towards[:, None])
    mirror = _MIRROR[mesh.materials][:, None]
    mirror = mirror * (0.5 + 0.5 * np.maximum(normals[:, 1:2], 0) + grazing**3)
    lit = lit * (1 - mirror) + light.sky * mirror
    for material, on in ((RED, light.lamps_on or paint.braking), (WHITE, light.lamps_on)):
        if on:
            glow = (255, 60, 45) if material == RED else (255, 250, 225)
            lit[mesh.materials == material] = glow
    lit = np.clip(light.through_haze(lit, float(distance.mean())), 0, 255)

    fixed = fixed_point(pixels - (left, top), scale)
    ends = np.cumsum(counts)
    colours = np.concatenate([lit, np.full((len(lit), 1), 255.0)], axis=1).tolist()
    for index in np.lexsort((-distance, mesh.layers)).tolist():
        if towards[index] > 0 and counts[index] >= 3:
            outline = fixed[ends[index] - counts[index] : ends[index]]
            cv2.fillPoly(canvas, [outline], colours[index], shift=FIXED_POINT_BITS)
    size = (int(right - left), int(bottom - top))
    patch = np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_AREA), np.uint8)
    if size[1] >= 20:
        _finish(patch)
    return patch, (int(left), int(top))


def _finish(patch: NDArray[np.uint8]) -> None:
    """Break up the flat faces of a near vehicle: darker below, faint reflections, in place."""
    height, width = patch.shape[:2]
    tile = cv2.resize(noise_tile(6, 12)[:40, :40], (width, height), interpolation=cv2.INTER_LINEAR)
    ramp = np.linspace(1.06, 0.84, height, dtype=np.float32)[:, None]
    factor = np.minimum(ramp * (1 + np.float32(0.045) * tile), 1.15)
    rgb = patch[..., :3] * factor[..., None]
    # Premultiplied: no colour may exceed its alpha.
    np.minimum(rgb, patch[..., 3:], out=rgb)
    patch[..., :3] = rgb.astype(np.uint8)

"""Long things beside a synthetic road: buildings, guard rails, walls, fences and hedges."""

import cv2
import numpy as np
from numpy.typing import NDArray

from offline_compress.roads.canvas import OTHER, Canvas
from offline_compress.roads.geometry import (
    FIXED_POINT_BITS,
    NEAR_M,
    PinholeCamera,
    RoadView,
    fixed_point,
)
from offline_compress.roads.roadside import Thing
from offline_compress.roads.sprites import facade, mip_level
from offline_compress.roads.vehicles import Light

_FACADES = 16
_BARRIERS = {  # lower and upper edge in metres, colour
    "rail": (0.45, 0.78, (168, 172, 176)),
    "concrete": (0.0, 0.85, (168, 164, 156)),
    "wall": (0.0, 1.3, (150, 112, 92)),
    "fence": (0.05, 1.2, (92, 84, 72)),
    "hedge": (0.0, 1.5, (52, 72, 36)),
}


def draw_building(
    canvas: Canvas, thing: Thing, view: RoadView, camera: PinholeCamera, light: Light
) -> None:
    """Draw the end wall that faces the camera, the facade along the road, and perhaps a roof."""
    width, height, deep = thing.size
    s0 = thing.s - view.ego_s
    s1, outward = s0 + width, np.sign(thing.d)
    s0 = max(s0, 1.5)
    if s1 <= s0 + 0.5:
        return
    d, back = thing.d, thing.d + outward * deep
    colour = np.array(thing.tint)
    distance = max(float(view.to_ego(s0, d)[0, 2]), 1.0)
    heading = view.heading_at(s0)
    end = light.shade(np.array([[-np.sin(heading), 0.0, -np.cos(heading)]]))[0]
    side = light.shade(np.array([[-outward * np.cos(heading), 0, outward * np.sin(heading)]]))[0]

    def place(*corners: tuple[float, float, float]) -> NDArray[np.float64]:
        return view.to_ego(*np.array(corners, np.float64).T)

    end_colour = light.through_haze(colour * end * 0.95, distance)
    if thing.variant & 32:
        rise, ridge = height + 0.35 * deep, (d + back) / 2
        slope = place((s0, d, height), (s1, d, height), (s1, ridge, rise), (s0, ridge, rise))
        gable = place((s0, d, height), (s0, back, height), (s0, ridge, rise))
        tiles = np.array((96, 78, 70.0)) * light.shade(np.array([[0, 0.8, -0.6]]))[0]
        canvas.polygon(camera.polygon(slope), light.through_haze(tiles, distance), OTHER)
        canvas.polygon(camera.polygon(gable), end_colour, OTHER)
    texture = facade(thing.variant % _FACADES, light.lamps_on)
    ends = facade((thing.variant // 3) % _FACADES, light.lamps_on)
    corners = ((s0, d, height), (s0, back, height), (s0, back, 0), (s0, d, 0))
    if outward < 0:
        corners = (corners[1], corners[0], corners[3], corners[2])
    _draw_wall(canvas, camera, place(*corners), ends, end_colour)
    wall = light.through_haze(colour * side, distance + width / 3)
    corners = ((s0, d, height), (s1, d, height), (s1, d, 0), (s0, d, 0))
    _draw_wall(canvas, camera, place(*corners), texture, wall)


def _draw_wall(
    canvas: Canvas,
    camera: PinholeCamera,
    corners: NDArray[np.float64],
    texture: tuple[NDArray[np.uint8], ...],
    colour: NDArray[np.float64],
) -> None:
    """Draw a textured rectangle given by its ego corners [4, 3], top edge first."""
    seen = camera.to_camera(corners)
    if seen[:, 2].min() < NEAR_M:
        canvas.polygon(camera.polygon(corners), colour, OTHER)
        return
    quad = camera.image(seen)
    rows, columns = canvas.ids.shape
    x0, y0 = (int(value) for value in np.maximum(np.floor(quad.min(axis=0)), 0))
    x1 = min(int(np.ceil(quad[:, 0].max())), columns)
    y1 = min(int(np.ceil(quad[:, 1].max())), rows)
    if x1 <= x0 or y1 <= y0:
        return
    level = mip_level(texture, max(np.ptp(quad[:, 0]), np.ptp(quad[:, 1]) / 2))
    n = len(level)
    source = np.array([(0, 0), (n, 0), (n, n), (0, n)], np.float32)
    matrix = cv2.getPerspectiveTransform(source, (quad - (x0, y0)).astype(np.float32))
    size = (x1 - x0, y1 - y0)
    wall = cv2.warpPerspective(level, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    wall = cv2.transform(wall, np.diag(colour / 128).astype(np.float32))
    mask = np.zeros((size[1], size[0]), np.uint8)
    cv2.fillPoly(mask, [fixed_point(quad - (x0, y0))], 255, shift=FIXED_POINT_BITS)
    cv2.copyTo(wall, mask, canvas.image[y0:y1, x0:x1])
    canvas.ids[y0:y1, x0:x1][mask > 0] = OTHER


def draw_barrier(
    canvas: Canvas,
    span: tuple[float, float],
    d: float,
    kind: str,
    frame: tuple[RoadView, PinholeCamera, Light],
) -> None:
    """Draw a piece of guard rail, wall, fence or hedge over the relative span (s0, s1)."""
    view, camera, light = frame
    s = np.linspace(span[0], span[1], 4)
    there_and_back = np.concatenate([s, s[::-1]])
    low, high, tone = _BARRIERS[kind]
    colour = np.array(tone, np.float64)
    distance = max(float(span[0]), 1.0)
    lit = colour * light.shade(np.array([[-np.sign(d), 0.0, 0.0]]))[0] * 1.1
    lit = light.through_haze(lit, distance)

    def strip(bottom: float, top: float, d_top: float, colour: NDArray[np.float64]) -> None:
        rise = np.repeat([bottom, top], len(s))
        across = np.repeat([d, d_top], len(s))
        canvas.polygon(camera.polygon(view.to_ego(there_and_back, across, rise)), colour, OTHER)

    strip(low, high, d, lit)
    if kind == "rail":
        strip(0.56, 0.66, d, lit * 0.72)
        post = np.array([span[0], span[0] + 0.12, span[0] + 0.12, span[0]])
        corners = view.to_ego(post, d, np.array([0, 0, 0.7, 0.7]))
        canvas.polygon(camera.polygon(corners), lit * 0.6, OTHER)
    elif kind in ("concrete", "wall"):
        top = colour * light.shade(np.array([[0, 1.0, 0]]))[0]
        strip(high, high, d + np.sign(d) * 0.3, light.through_haze(top, distance))

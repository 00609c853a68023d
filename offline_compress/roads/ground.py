"""The ground of a synthetic road: terrain, asphalt, paint, wear and shadows, with exact masks."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from offline_compress.roads.geometry import FIXED_POINT_BITS, PinholeCamera, RoadView, fixed_point
from offline_compress.roads.marks import marks
from offline_compress.roads.sprites import noise_tile
from offline_compress.roads.vehicles import Light
from offline_compress.roads.world import World

# Paint covering less of a pixel than this is not labelled: nobody could see it.
_LABEL_COVERAGE = 0.35


@dataclass(frozen=True)
class Ground:
    """The ground part of a picture: rows `top` to the bottom."""

    top: int
    image: NDArray[np.uint8]  # [h, W, 3] RGB
    cover: NDArray[np.bool_]  # [h, W] the pixel shows ground
    road: NDArray[np.bool_]  # [h, W] drivable if nothing stands on it
    lane: NDArray[np.bool_]  # [h, W] painted if nothing stands on it
    crest_s: float  # beyond it the ground is hidden behind a crest


@dataclass(frozen=True)
class Shadows:
    """Pixel outlines of the shadows that vehicles cast and of the dark ground under them."""

    cast: list[NDArray[np.float64]]
    under: list[NDArray[np.float64]]


@dataclass(frozen=True)
class _Pixels:
    """Road coordinates of every pixel of the ground rows."""

    cover: NDArray[np.bool_]
    s: NDArray[np.float32]  # metres ahead of the ego car
    d: NDArray[np.float32]
    forward: NDArray[np.float32]  # metres, ego Z


def _stations(view: RoadView, s0: float, s1: float) -> NDArray[np.float64]:
    """Sample positions on [s0, s1], denser close by, where a pixel is small."""
    s0, s1 = max(s0, view.s[0]), min(s1, view.s[-1])
    if s1 <= s0:
        return np.empty(0)
    reach = np.array([0, 1, 2, 3, 4, 6, 8, 10, 13, 16, 20, 25, 31, 38, 47, 58, 72, 90, 112, 140])
    inner = np.concatenate([[-12.0, -8, -4], reach, np.arange(170, 700, 30)])
    inner = inner[(inner > s0) & (inner < s1)]
    return np.concatenate([[s0], inner, [s1]])


def band(
    view: RoadView, camera: PinholeCamera, span: tuple[float, float], d0: float, d1: float
) -> NDArray[np.float64]:
    """Outline in pixels of the band d0..d1 along the road over the relative span (s0, s1)."""
    s = _stations(view, *span)
    if not len(s):
        return np.empty((0, 2))
    outline = np.concatenate([view.to_ego(s, d0), view.to_ego(s[::-1], d1)])
    return camera.polygon(outline)


def _crest(view: RoadView, camera: PinholeCamera) -> float:
    """The farthest s whose ground is in sight: a crest, a tight bend, or the end of the table."""
    ahead = np.flatnonzero((view.s > 3.0) & (view.z > 1.0))
    slope = (view.y[ahead] - camera.height_m) / view.z[ahead]
    hidden = slope < np.maximum.accumulate(slope) - 1e-4
    bent = np.abs(view.heading[ahead]) > 1.0
    stop = np.flatnonzero(hidden | bent)
    end = int(stop[0]) if len(stop) else len(ahead)
    return float(view.s[ahead[max(end - 1, 0)]])


def _road_coordinates(view: RoadView, camera: PinholeCamera, top: int, crest_s: float) -> _Pixels:
    right, up = camera.rays(top)
    ahead = (view.s > 0.5) & (view.s <= crest_s) & (view.z > 0.4)
    slope = np.maximum.accumulate((view.y[ahead] - camera.height_m) / view.z[ahead])
    entries = 4096
    lowest, highest = float(slope[0]), float(slope[-1])
    grid = np.linspace(lowest, highest, entries)
    # In between, 1 / distance is close to linear in the slope of the ray.
    distance = 1.0 / np.interp(grid, slope, 1.0 / view.z[ahead])
    table_s = np.interp(distance, view.z[ahead], view.s[ahead]).astype(np.float32)
    table_x = np.interp(distance, view.z[ahead], view.x[ahead]).astype(np.float32)
    table_cos = np.interp(distance, view.z[ahead], np.cos(view.heading[ahead])).astype(np.float32)
    index = ((up - lowest) * np.float32((entries - 1) / (highest - lowest))).astype(np.int32)
    np.clip(index, 0, entries - 1, out=index)
    forward = distance.astype(np.float32).take(index)
    d = (right * forward + np.float32(camera.x_m) - table_x.take(index)) * table_cos.take(index)
    return _Pixels(up <= highest, table_s.take(index), d, forward)


class _Masks:
    """Supersampled coverage of outlines on the ground rows."""

    def __init__(self, camera: PinholeCamera, top: int) -> None:
        self.scale = 4 if camera.width * camera.height <= 500_000 else 2
        self.top = top
        self.size = (camera.width, camera.height - top)
        self.canvas = np.zeros((self.size[1] * self.scale, self.size[0] * self.scale), np.uint8)

    def fill(self, outline: NDArray[np.float64]) -> None:
        if len(outline) >= 3:
            points = fixed_point(outline - (0, self.top), self.scale)
            cv2.fillPoly(self.canvas, [points], 255, shift=FIXED_POINT_BITS)

    def coverage(self) -> NDArray[np.uint8]:
        """Coverage 0..255 per pixel; clears the canvas for the next set of outlines."""
        small = cv2.resize(self.canvas, self.size, interpolation=cv2.INTER_AREA)
        self.canvas[:] = 0
        return np.asarray(small, np.uint8)


def _sample(
    tile: NDArray[np.float32], s: NDArray[np.float32], d: NDArray[np.float32], per_m: float
) -> NDArray[np.float32]:
    """Look up a tileable texture of `per_m` texels per metre at road coordinates."""
    size, texels = np.float32(len(tile)), np.float32(per_m / len(tile))
    x, y = d * texels, s * texels
    x -= np.floor(x)
    y -= np.floor(y)
    x *= size
    y *= size
    sampled = cv2.remap(tile, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(sampled, np.float32)


class _Painter:
    """Draws the flat colours and the masks of everything that lies on the ground."""

    def __init__(
        self, world: World, view: RoadView, camera: PinholeCamera, top: int, crest_s: float
    ):
        self.world, self.view, self.camera = world, view, camera
        self.top, self.crest_s = top, crest_s
        self.masks = _Masks(camera, top)
        shape = (camera.height - top, camera.width)
        self.flat = np.empty((*shape, 3), np.uint8)
        self.flat[:] = np.round(world.terrain).astype(np.uint8)
        self.grain = np.full(shape, round(world.terrain_grain * 100), np.uint8)

    def paint(
        self, outline: NDArray[np.float64], colour: tuple[float, float, float], grain: float
    ) -> None:
        if len(outline) >= 3:
            points = [fixed_point(outline - (0, self.top))]
            cv2.fillPoly(self.flat, points, colour, cv2.LINE_AA, FIXED_POINT_BITS)
            cv2.fillPoly(self.grain, points, round(grain * 100), shift=FIXED_POINT_BITS)

    def outline(self, shape: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels of a polygon in absolute road coordinates; empty if not all of it is in reach."""
        s = shape[:, 0] - self.view.ego_s
        if s.max() > self.crest_s or s.min() < self.view.s[0]:
            return np.empty((0, 2))
        return self.camera.polygon(self.view.to_ego(s, shape[:, 1]))

    def surfaces(self) -> NDArray[np.uint8]:
        """Paint verges, pavements and road; returns the coverage of the road."""
        world, asphalt = self.world, self.world.asphalt
        reach = (self.view.s[0], self.crest_s)
        roads = [self.outline(s) for s in world.side_roads(self.view.ego_s, self.crest_s)]
        for strip in world.strips:
            outline = band(self.view, self.camera, reach, strip.d0, strip.d1)
            self.paint(outline, strip.colour, strip.grain)
        roads += [band(self.view, self.camera, reach, *edges) for edges in world.drivable]
        for outline in roads:
            self.paint(outline, asphalt, 0.45)
            self.masks.fill(outline)
        return self.masks.coverage()

    def paint_marks(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Paint repairs; returns the coverage of white and of yellow paint."""
        start = self.view.ego_s
        for mark in marks(self.world, start - 5, start + min(self.crest_s, 110.0)):
            if mark.tone is not None:
                tone = np.clip(np.array(self.world.asphalt) * mark.tone, 0, 220)
                self.paint(self.outline(mark.outline), tuple(tone.tolist()), 0.45)
            else:
                self.masks.fill(self.outline(mark.outline))
        self._fill_lines(False)
        white = self.masks.coverage()
        self._fill_lines(True)
        return white, self.masks.coverage()

    def shadow(self, outlines: list[NDArray[np.float64]], blur: float) -> NDArray[np.float32]:
        """How much of each pixel lies in the shadow of these outlines, 0..1, soft-edged."""
        for outline in outlines:
            self.masks.fill(outline)
        soft = cv2.GaussianBlur(self.masks.coverage(), (0, 0), blur)
        return soft.astype(np.float32) * np.float32(1 / 255)

    def _fill_lines(self, yellow: bool) -> None:
        start_s = self.view.ego_s
        for line in self.world.lines:
            if line.yellow != yellow:
                continue
            low, high = line.d - line.width_m / 2, line.d + line.width_m / 2
            spans: list[tuple[float, float]]
            if line.dash is None:
                spans = self.world.between_side_roads(
                    (start_s - 12.0, start_s + self.crest_s), line.d
                )
            else:
                painted, period, phase = line.dash
                first = int((start_s - 12.0 - phase) // period)
                last = int((start_s + min(self.crest_s, 160.0) - phase) // period)
                starts = [index * period + phase for index in range(first, last + 1)]
                spans = [(begin, begin + painted) for begin in starts]
            for begin, end in spans:
                span = (begin - start_s, min(end - start_s, self.crest_s))
                if span[1] > span[0]:
                    self.masks.fill(band(self.view, self.camera, span, low, high))


def render_ground(
    world: World,
    view: RoadView,
    camera: PinholeCamera,
    light: Light,
    shadows: Shadows,
    tree_shade: float,
) -> Ground | None:
    """Render everything flat; None if no ground is in sight.

    `tree_shade` (0..1) is how much trees shade the road.
    """
    crest_s = _crest(view, camera)
    _, up = camera.rays(0)
    near = (view.s > 3) & (view.s <= crest_s)
    highest = float(np.max((view.y[near] - camera.height_m) / np.maximum(view.z[near], 1.0)))
    rows = np.flatnonzero((up <= highest).any(axis=1))
    if not len(rows):
        return None
    top = int(rows[0])
    pixels = _road_coordinates(view, camera, top, crest_s)
    painter = _Painter(world, view, camera, top, crest_s)
    road_cover = painter.surfaces()
    white, yellow = painter.paint_marks()
    cast = painter.shadow(shadows.cast, 1.1)
    under = painter.shadow(shadows.under, 1.8)

    texture, patches, dapple = _textures(world, view, pixels, painter.grain, tree_shade)
    texture *= 1.0 - np.float32(0.72) * under
    share = 1.0 - cast
    if dapple is not None:
        share *= dapple
    coats = []
    for coverage, colour in ((white, (214, 214, 208)), (yellow, (190, 146, 46))):
        if coverage.any():
            worn = np.clip(1.0 - world.wear * (0.45 + 0.5 * patches), 0.35, 1.0)
            coats.append((worn * (coverage * np.float32(1 / 255)), colour))
    bright = light.ambient + light.direct * max(float(light.sun[1]), 0.0)
    dark = light.ambient * 0.85
    clear = np.exp(pixels.forward * np.float32(-1 / light.visibility_m))
    planes = []
    for channel in range(3):
        plane = painter.flat[..., channel].astype(np.float32)
        for alpha, colour in coats:
            plane += alpha * (np.float32(colour[channel]) - plane)
        plane *= texture
        plane *= share * np.float32(bright[channel] - dark[channel]) + np.float32(dark[channel])
        haze = np.float32(light.haze[channel])
        plane -= haze
        plane *= clear
        plane += haze
        planes.append(np.clip(plane, 0, 255, out=plane).astype(np.uint8))
    image = np.asarray(cv2.merge(planes), np.uint8)
    lane = (np.maximum(white, yellow) >= 255 * _LABEL_COVERAGE) & pixels.cover
    road = ((road_cover >= 128) & pixels.cover) | lane
    return Ground(top, image, pixels.cover, road, lane, crest_s)


def _textures(
    world: World,
    view: RoadView,
    pixels: _Pixels,
    grain: NDArray[np.uint8],
    tree_shade: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
    """Per pixel: brightness of the surface, blotches, and the light that trees let through.

    Looked up at half the resolution: the camera's own noise covers what is lost.
    """
    s = pixels.s[::2, ::2] + np.float32(view.ego_s % 4096.0)
    d, forward = pixels.d[::2, ::2], pixels.forward[::2, ::2]
    coarse = noise_tile(6, 12)
    fine = _sample(noise_tile(2, 11), s, d, 28.0)
    fine *= np.minimum(np.float32(0.765) / forward, np.float32(0.085))
    fine += _sample(coarse, s, d, 3.1) * np.float32(0.07)
    blotches = _sample(coarse, s * np.float32(0.35), d, 7.0)
    on_road = np.logical_or.reduce([(d > low) & (d < high) for low, high in world.drivable])
    tracks = np.cos(d * np.float32(4 * np.pi / world.lane_m) - np.float32(np.pi))
    base = blotches * np.float32(0.035)
    base += on_road * tracks * np.float32(0.03 + 0.03 * world.wear)
    base += 1.0
    size = (grain.shape[1], grain.shape[0])

    def full(small: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR), np.float32)

    texture = full(fine)
    texture *= grain * np.float32(0.01)
    texture += full(base)
    dapple = None
    if tree_shade > 0:
        leaves = _sample(noise_tile(5, 13), s * np.float32(0.8), d, 9.0)
        clumps = _sample(coarse, s, d, 1.3)
        cast = (leaves * np.float32(0.55) + clumps - np.float32(1.9 - 2.6 * tree_shade)) * 2.2
        dapple = full(1.0 - np.clip(cast, 0, 1))
    return texture, full(blotches), dapple

"""The ground of a synthetic road: terrain, asphalt, paint, wear and shadows, with exact masks."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from offline_compress.data.synth_geometry import FIXED_POINT_BITS, Camera, RoadView, fixed_point
from offline_compress.data.synth_vehicles import Light
from offline_compress.data.synth_world import World

_SUPERSAMPLING = 4
# Paint covering less of a pixel than this is not labelled: nobody could see it.
_LABEL_COVERAGE = 0.35
_TILE = 512


@lru_cache(maxsize=4)
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


@dataclass
class Ground:
    """The ground part of a picture: rows `top` to the bottom."""

    top: int
    image: NDArray[np.float32]  # [h, W, 3] RGB 0..255
    cover: NDArray[np.float32]  # [h, W, 1] 0..1, how much of the pixel is ground
    road: NDArray[np.bool_]  # [h, W] drivable if nothing stands on it
    lane: NDArray[np.bool_]  # [h, W] painted if nothing stands on it
    crest_s: float  # beyond it the ground is hidden behind a crest


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
    view: RoadView, camera: Camera, span: tuple[float, float], d0: float, d1: float
) -> NDArray[np.float64]:
    """Outline in pixels of the band d0..d1 along the road over the relative span (s0, s1)."""
    s = _stations(view, *span)
    if not len(s):
        return np.empty((0, 2))
    outline = np.concatenate([view.to_ego(s, d0), view.to_ego(s[::-1], d1)])
    return camera.polygon(outline)


def _crest(view: RoadView, camera: Camera) -> float:
    """The farthest s whose ground is in sight: a crest, a tight bend, or the end of the table."""
    ahead = np.flatnonzero((view.s > 3.0) & (view.z > 1.0))
    slope = (view.y[ahead] - camera.height_m) / view.z[ahead]
    hidden = slope < np.maximum.accumulate(slope) - 1e-4
    bent = np.abs(view.heading[ahead]) > 1.0
    stop = np.flatnonzero(hidden | bent)
    end = int(stop[0]) if len(stop) else len(ahead)
    return float(view.s[ahead[max(end - 1, 0)]])


def _road_coordinates(
    view: RoadView, camera: Camera, top: int, crest_s: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Per pixel of the rows >= top: cover 0..1, s, d and forward distance in metres."""
    right, up = camera.rays(top)
    ahead = (view.s > 0.5) & (view.s <= crest_s) & (view.z > 0.4)
    slope = np.maximum.accumulate((view.y[ahead] - camera.height_m) / view.z[ahead])
    entries = 4096
    lowest, highest = float(slope[0]), float(slope[-1])
    grid = np.linspace(lowest, highest, entries)
    inverse = np.interp(grid, slope, 1.0 / view.z[ahead])
    distance = 1.0 / inverse
    table_s = np.interp(distance, view.z[ahead], view.s[ahead]).astype(np.float32)
    table_x = np.interp(distance, view.z[ahead], view.x[ahead]).astype(np.float32)
    table_cos = np.interp(distance, view.z[ahead], np.cos(view.heading[ahead])).astype(np.float32)
    index = ((up - lowest) * np.float32((entries - 1) / (highest - lowest))).astype(np.int32)
    np.clip(index, 0, entries - 1, out=index)
    forward = np.where(
        up < lowest, -camera.height_m / np.minimum(up, -1e-3), distance.astype(np.float32)[index]
    ).astype(np.float32)
    cover = np.clip((highest - up) * np.float32(camera.focal_px) + 0.5, 0, 1)
    d = (right * forward + np.float32(camera.x_m) - table_x[index]) * table_cos[index]
    s = np.where(up < lowest, forward, table_s[index])
    return cover, s, d, forward


class _Masks:
    """Supersampled coverage of outlines on the ground rows."""

    def __init__(self, camera: Camera, top: int) -> None:
        self.scale = _SUPERSAMPLING if camera.width * camera.height <= 500_000 else 2
        self.top = top
        self.size = (camera.width, camera.height - top)
        self.canvas = np.zeros((self.size[1] * self.scale, self.size[0] * self.scale), np.uint8)

    def fill(self, outline: NDArray[np.float64]) -> None:
        if len(outline) >= 3:
            points = fixed_point(outline - (0, self.top), self.scale)
            cv2.fillPoly(self.canvas, [points], 255, shift=FIXED_POINT_BITS)

    def coverage(self) -> NDArray[np.float32]:
        """Coverage 0..1 per pixel; clears the canvas for the next set of outlines."""
        small = cv2.resize(self.canvas, self.size, interpolation=cv2.INTER_AREA)
        self.canvas[:] = 0
        return small.astype(np.float32) * np.float32(1 / 255)


def _sample(
    tile: NDArray[np.float32], s: NDArray[np.float32], d: NDArray[np.float32], per_m: float
) -> NDArray[np.float32]:
    return cv2.remap(
        tile,
        np.mod(d * np.float32(per_m), _TILE),
        np.mod(s * np.float32(per_m), _TILE),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )


def render_ground(
    world: World,
    view: RoadView,
    camera: Camera,
    light: Light,
    shadows: list[NDArray[np.float64]],
    tree_shade: float,
) -> Ground | None:
    """Render everything flat. `shadows` are pixel outlines of cast shadows on the ground."""
    crest_s = _crest(view, camera)
    _, up = camera.rays(0)
    slope_limit = float(
        np.max((view.y - camera.height_m)[view.s > 3] / np.maximum(view.z[view.s > 3], 1.0))
    )
    rows = np.flatnonzero((up <= slope_limit + 2.0 / camera.focal_px).any(axis=1))
    if not len(rows):
        return None
    top = int(rows[0])
    cover, s, d, forward = _road_coordinates(view, camera, top, crest_s)
    ahead = (view.s[0], crest_s)
    masks = _Masks(camera, top)

    def edge(low: float, high: float) -> NDArray[np.float64]:
        return band(view, camera, ahead, low, high)

    flat = np.empty((*cover.shape, 3), np.uint8)
    flat[:] = np.round(world.terrain).astype(np.uint8)
    grain = np.full(cover.shape, round(world.terrain_grain * 100), np.uint8)

    def paint(outline: NDArray[np.float64], colour: tuple[float, float, float], amp: float) -> None:
        if len(outline) < 3:
            return
        points = [fixed_point(outline - (0, top))]
        cv2.fillPoly(flat, points, colour, cv2.LINE_AA, FIXED_POINT_BITS)
        cv2.fillPoly(grain, points, round(amp * 100), shift=FIXED_POINT_BITS)

    for strip in world.strips:
        paint(edge(strip.d0, strip.d1), strip.colour, strip.grain)
    for low, high in world.drivable:
        outline = edge(low, high)
        paint(outline, world.asphalt, 0.45)
        masks.fill(outline)
    road_cover = masks.coverage()

    marks = list(world.marks(view.ego_s - 5, view.ego_s + min(crest_s, 110.0)))
    for mark in marks:
        relative = mark.outline[:, 0] - view.ego_s
        if relative.max() > crest_s or relative.min() < view.s[0]:
            continue
        outline = camera.polygon(view.to_ego(relative, mark.outline[:, 1]))
        if mark.kind == "patch":
            paint(outline, tuple(np.clip(np.array(world.asphalt) * mark.tone, 0, 220)), 0.45)
        else:
            masks.fill(outline)
    _fill_lines(world, view, camera, crest_s, masks, yellow=False)
    white = masks.coverage()
    _fill_lines(world, view, camera, crest_s, masks, yellow=True)
    yellow = masks.coverage()
    lane_cover = np.maximum(white, yellow)

    # Texture: fine grain fades where a pixel covers more than a grain.
    absolute = s + np.float32(view.ego_s % 4096.0)
    fine, coarse = noise_tile(2, 11), noise_tile(6, 12)
    near = np.minimum(1.0, 9.0 / forward)
    grains = grain.astype(np.float32) * np.float32(0.01)
    texture = _sample(fine, absolute, d, 28.0) * (near * np.float32(0.085))
    texture += _sample(coarse, absolute, d, 3.1) * np.float32(0.075)
    texture *= grains
    patches = _sample(coarse, absolute * np.float32(0.35), d, 7.0)
    texture += patches * np.float32(0.035)
    texture += 1.0
    on_road = road_cover > 0.5
    lanes = d / np.float32(world.lane_m)
    tracks = np.cos((lanes * 2 - 0.5) * np.float32(2 * np.pi))
    texture += on_road * tracks * np.float32(0.03 + 0.03 * world.wear)

    shade = _shade(world, shadows, masks, absolute, d, tree_shade)
    image = flat.astype(np.float32)
    for channel, (coat, coverage) in enumerate(
        (((222, 222, 216), white), ((214, 164, 52), yellow))
    ):
        if not coverage.any():
            continue
        chipped = np.clip(
            1.0
            - world.wear * (0.45 + 0.5 * patches)
            - np.maximum(texture - 1.0, 0) * (2.0 * world.wear),
            0.35,
            1.0,
        )
        alpha = (coverage * chipped)[..., None]
        image += alpha * (np.array(coat, np.float32) * np.float32(0.96 - 0.1 * channel) - image)
    bright = light.direct * max(light.sun[1], 0.0)
    lit = (light.ambient + bright).astype(np.float32)
    dark = light.ambient.astype(np.float32) * np.float32(0.85)
    image *= texture[..., None]
    image *= dark + (lit - dark) * shade[..., None]
    clear = np.exp(-forward / np.float32(light.visibility_m))[..., None]
    image = image * clear + light.haze.astype(np.float32) * (1 - clear)
    solid = cover > 0.5
    lane = (lane_cover >= _LABEL_COVERAGE) & solid
    road = ((road_cover >= 0.5) & solid) | lane
    return Ground(top, image, cover[..., None].astype(np.float32), road, lane, crest_s)


def _shade(
    world: World,
    shadows: list[NDArray[np.float64]],
    masks: _Masks,
    s: NDArray[np.float32],
    d: NDArray[np.float32],
    tree_shade: float,
) -> NDArray[np.float32]:
    """Share of direct light per pixel, 0..1."""
    for outline in shadows:
        masks.fill(outline)
    cast = masks.coverage()
    if shadows:
        cast = cv2.GaussianBlur(cast, (0, 0), 1.1)
    share = 1.0 - cast
    if tree_shade > 0:
        leaves = _sample(noise_tile(5, 13), s * np.float32(0.8), d, 9.0)
        clumps = _sample(noise_tile(6, 12), s, d, 1.3)
        dapple = np.clip((leaves * 0.55 + clumps - np.float32(1.9 - 2.6 * tree_shade)) * 2.2, 0, 1)
        share = share * (1.0 - dapple)
    return share.astype(np.float32)


def _fill_lines(
    world: World, view: RoadView, camera: Camera, crest_s: float, masks: _Masks, yellow: bool
) -> None:
    for line in world.lines:
        if line.yellow != yellow:
            continue
        low, high = line.d - line.width_m / 2, line.d + line.width_m / 2
        if line.dash is None:
            masks.fill(band(view, camera, (-12.0, crest_s), low, high))
            continue
        painted, period, phase = line.dash
        first = int((view.ego_s - 12.0 - phase) // period)
        last = int((view.ego_s + min(crest_s, 160.0) - phase) // period)
        for index in range(first, last + 1):
            start = index * period + phase - view.ego_s
            end = min(start + painted, crest_s)
            if end > start:
                masks.fill(band(view, camera, (start, end), low, high))

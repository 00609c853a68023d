"""Procedurally rendered perspective roads with exact labels, for tests, demos and training.

`render_scene` draws one picture of a random world; `Drive` drives through one world over time.
The same seed gives the same picture. Labels follow the conventions of the real data: every paint
on the road is lane at its true width and drivable too; whatever hides the road, hides its labels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from offline_compress.roads.buildings import draw_barrier, draw_building
from offline_compress.roads.canvas import OTHER, Canvas
from offline_compress.roads.geometry import PinholeCamera, RoadView
from offline_compress.roads.ground import Shadows, render_ground
from offline_compress.roads.look import Look, Mount, draw_look, draw_mount, expose
from offline_compress.roads.meshes import vehicle_mesh
from offline_compress.roads.random_world import build_world
from offline_compress.roads.roadside import things
from offline_compress.roads.scenery import draw_thing
from offline_compress.roads.sky import draw_sky
from offline_compress.roads.vehicles import Light, draw_vehicle
from offline_compress.roads.world import STYLES, Vehicle, World

REACH_M = 320.0
MIN_BOX_PX = 6.0
# A vehicle that shows less of itself than this is to be ignored, neither found nor missed.
MIN_VISIBLE = 0.25
# Pieces of a half-hidden vehicle smaller than this share of what is visible do not count.
MIN_PART = 0.08
_MAX_VEHICLES = 250
_TRAFFIC_M = 230.0
_PIECE_M = 8.0


@dataclass(frozen=True)
class Scene:
    """One labelled picture of `height` x `width` pixels."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    boxes: NDArray[
        np.float32
    ]  # [n, 4] x1, y1, x2, y2 pixels: tight around what is visible (see MIN_PART)
    ignore_boxes: NDArray[np.float32]  # [m, 4] vehicles too small or too hidden to count
    drivable: NDArray[np.uint8]  # [H, W] 0 or 255
    lane: NDArray[np.uint8]  # [H, W] 0 or 255, a subset of drivable
    ids: NDArray[np.uint8]  # [H, W] 0 ground or sky, 255 anything else, k the k-th vehicle drawn


def _camera(
    mount: Mount, size: tuple[int, int], motion: tuple[float, float, float]
) -> PinholeCamera:
    """`motion` is the lateral shift (m), yaw and pitch (rad) of the moment."""
    width, height = size
    focal = 0.5 * max(width, 1.3 * height) / np.tan(mount.fov_rad / 2)
    angles = (mount.yaw + motion[1], mount.pitch + motion[2], mount.roll)
    return PinholeCamera.create(width, height, focal, mount.height_m, mount.x_m + motion[0], angles)


def _shadows(
    vehicles: list[Vehicle], view: RoadView, camera: PinholeCamera, light: Light
) -> Shadows:
    shadows = Shadows([], [])
    slope = np.clip(light.sun[[0, 2]] / max(float(light.sun[1]), 0.15), -4, 4)
    for vehicle in vehicles:
        mesh = vehicle_mesh(vehicle.kind, vehicle.variant)
        heading = view.heading_at(vehicle.s) + vehicle.heading
        cos, sin = np.cos(heading), np.sin(heading)
        turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        half, end = mesh.width_m / 2, mesh.length_m / 2
        foot = np.array([(-half, 0, -end), (half, 0, -end), (half, 0, end), (-half, 0, end)])
        outlines = [(shadows.under, (foot @ turn.T)[:, [0, 2]])]
        if light.direct.max() > 0.3:
            hull = mesh.hull @ turn.T
            flat = (hull[:, [0, 2]] - hull[:, 1:2] * slope).astype(np.float32)
            outlines.append((shadows.cast, cv2.convexHull(flat)[:, 0].astype(np.float64)))
        x, _, z = view.to_ego(vehicle.s, vehicle.d)[0]
        for target, flat in outlines:
            across, ahead = x + flat[:, 0], z + flat[:, 1]
            height = np.interp(ahead, view.z, view.y)
            target.append(camera.polygon(np.stack([across, height, ahead], axis=1)))
    return shadows


def _turned(light: Light, yaw: float) -> Light:
    """The light of a world as it falls when the road heads `yaw` to the right."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    east, up, north = light.sun
    return replace(light, sun=np.array([cos * east - sin * north, up, sin * east + cos * north]))


def _render(
    world: World, look: Look, camera: PinholeCamera, ego_s: float, time_s: float, frame: int
) -> Scene:
    view = RoadView(world.shape, ego_s, world.ego_d, REACH_M)
    yaw = float(world.shape.heading(ego_s))
    light = _turned(look.light, yaw)
    vehicles = [v for v in world.vehicles(time_s, ego_s, _TRAFFIC_M) if -14 < v.s < _TRAFFIC_M]
    vehicles = sorted(vehicles, key=lambda v: v.s)[:_MAX_VEHICLES]
    shadows = _shadows([v for v in vehicles if v.s < 120], view, camera, light)
    sky = draw_sky(camera, light, look.zenith, look.clouds, yaw, world.seed & 0xFFFF)
    canvas = Canvas(sky, np.zeros(sky.shape[:2], np.uint8))
    ground = render_ground(world, view, camera, light, shadows, look.tree_shade)
    whole: dict[int, int] = {}
    jobs = _jobs(world, vehicles, whole, canvas, (view, camera, light))
    jobs.sort(key=lambda job: -job[0])
    # Far to near. What stands behind a crest comes before the ground, which hides its foot.
    crest_s = ground.crest_s if ground else -np.inf
    for _, draw in (job for job in jobs if job[0] > crest_s):
        draw()
    if ground:
        part = canvas.image[ground.top :]
        cv2.copyTo(ground.image, ground.cover.astype(np.uint8), part)
        canvas.ids[ground.top :][ground.cover] = 0
    for _, draw in (job for job in jobs if job[0] <= crest_s):
        draw()
    if look.bonnet:
        _bonnet(canvas, look)
    drivable = np.zeros(canvas.ids.shape, np.uint8)
    lane = np.zeros(canvas.ids.shape, np.uint8)
    if ground:
        free = canvas.ids[ground.top :] == 0
        drivable[ground.top :][ground.road & free] = 255
        lane[ground.top :][ground.lane & free] = 255
    boxes, ignore = _boxes(canvas.ids, whole)
    image = expose(canvas.image, look, world.rng(9, frame))
    return Scene(image, boxes, ignore, drivable, lane, canvas.ids)


def _jobs(
    world: World,
    vehicles: list[Vehicle],
    whole: dict[int, int],
    canvas: Canvas,
    frame: tuple[RoadView, PinholeCamera, Light],
) -> list[tuple[float, Callable[[], None]]]:
    """Everything that stands on the ground: (distance s, draw it).

    `whole` receives, per vehicle drawn, the pixels it covers before others hide it.
    """
    view, camera, light = frame
    ego_s = view.ego_s
    jobs: list[tuple[float, Callable[[], None]]] = []

    def draw(code: int, vehicle: Vehicle) -> None:
        mesh = vehicle_mesh(vehicle.kind, vehicle.variant)
        position = view.to_ego(vehicle.s, vehicle.d)[0]
        heading = view.heading_at(vehicle.s) + vehicle.heading
        drawn = draw_vehicle(mesh, vehicle.paint, (position, heading), camera, light)
        if drawn is not None:
            whole[code] = canvas.blend(*drawn, code)

    for index, vehicle in enumerate(vehicles):
        jobs.append((vehicle.s, partial(draw, index + 1, vehicle)))
    for thing in things(world, ego_s + 1.0, ego_s + 240.0):
        if thing.kind == "building":
            # By its far end: what stands in front of the facade must be drawn after it.
            far = thing.s + thing.size[0] - ego_s
            jobs.append((far, partial(draw_building, canvas, thing, view, camera, light)))
        elif thing.s > ego_s + 1.0:
            jobs.append((thing.s - ego_s, partial(draw_thing, canvas, thing, view, camera, light)))
    for d, kind in world.barriers:
        first = int(ego_s // _PIECE_M)
        for piece in range(first, first + 24):
            start, end = piece * _PIECE_M - ego_s, (piece + 1) * _PIECE_M - ego_s
            if end > 0.5 and not world.in_side_road(start + ego_s, end + ego_s, d):
                span = (max(start, 0.3), end)
                jobs.append((span[0], partial(draw_barrier, canvas, span, d, kind, frame)))
    return jobs


def _bonnet(canvas: Canvas, look: Look) -> None:
    """The ego car's own bonnet along the lower edge."""
    height, width = canvas.ids.shape
    x = np.linspace(-1.1, 1.1, 24)
    rise = look.bonnet * height
    y = height - rise * np.sqrt(np.maximum(1.3 - x**2, 0.02)) / 1.14
    outline = np.stack([(x + 1) / 2 * width, y], 1)
    outline = np.concatenate([outline, [(width + 9, height + 9), (-9, height + 9)]])
    colour = look.light.sky * 0.18 + 12
    canvas.polygon(outline, colour, OTHER)
    canvas.polygon(outline + np.array((0, rise * 0.25)), colour * 0.7, OTHER)


def _boxes(
    ids: NDArray[np.uint8], whole: dict[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Tight boxes of the visible pixels: those that count and those to ignore."""
    keep: list[tuple[int, int, int, int]] = []
    ignore: list[tuple[int, int, int, int]] = []
    for code, size in whole.items():
        mask = np.asarray(cv2.compare(ids, code, cv2.CMP_EQ), np.uint8)
        left, top, width, height = cv2.boundingRect(mask)
        if not width:
            continue
        mask = mask[top : top + height, left : left + width]
        visible = cv2.countNonZero(mask)
        if visible < size:
            x, y, width, height = _main_extent(mask, visible)
            left, top = left + x, top + y
        box = (left, top, left + width, top + height)
        small = min(width, height) < MIN_BOX_PX
        (ignore if small or visible < MIN_VISIBLE * size else keep).append(box)
    return (
        np.array(keep, np.float32).reshape(-1, 4),
        np.array(ignore, np.float32).reshape(-1, 4),
    )


def _main_extent(mask: NDArray[np.uint8], visible: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a half-hidden vehicle without its slivers.

    A few pixels of tyre seen through the gap under another car would make a box that nobody
    would draw.
    """
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    parts = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= MIN_PART * visible]
    if not parts:
        return 0, 0, mask.shape[1], mask.shape[0]
    corners = stats[parts][:, :2]
    far = (corners + stats[parts][:, 2:4]).max(axis=0)
    left, top = corners.min(axis=0)
    return int(left), int(top), int(far[0] - left), int(far[1] - top)


def _check_size(width: int, height: int) -> None:
    if width < 32 or height < 32:
        raise ValueError(f"a road picture needs at least 32 x 32 pixels, not {width} x {height}")


def render_scene(seed: int, width: int, height: int, *, style: str | None = None) -> Scene:
    """Render one random road.

    seed: any non-negative integer; the same seed and size give the same bytes. style: one of
    `STYLES` to fix the surroundings, else drawn from the seed. Raises ValueError on other styles
    or on pictures smaller than 32 x 32.
    """
    _check_size(width, height)
    if style is not None and style not in STYLES:
        raise ValueError(f"unknown style {style!r}: use one of {', '.join(STYLES)}")
    world = build_world(seed, style)
    rng = world.rng(10)
    motion = (rng.normal(0, 0.35), rng.normal(0, 0.025), rng.normal(0, 0.006))
    camera = _camera(draw_mount(rng), (width, height), motion)
    return _render(
        world, draw_look(rng, False), camera, rng.uniform(0, 5000), rng.uniform(0, 60), 0
    )


class Drive:
    """A drive through one world: frame i is the view at i / fps seconds.

    Frames can be asked for in any order and are independent of each other.
    """

    def __init__(self, seed: int, width: int, height: int, fps: float) -> None:
        """Raises ValueError for pictures smaller than 32 x 32 or a frame rate not above 0."""
        _check_size(width, height)
        if not fps > 0:
            raise ValueError(f"the frame rate must be above 0, not {fps}")
        self.world = build_world(seed)
        rng = self.world.rng(11)
        self._size, self._fps = (width, height), fps
        self._mount, self._look = draw_mount(rng), draw_look(rng, True)
        self._start = rng.uniform(0, 5000)

    def frame(self, index: int) -> Scene:
        """The labelled picture number `index`."""
        time_s = index / self._fps
        sway = 0.22 * np.sin(0.55 * time_s)
        yaw = -0.004 * np.cos(0.55 * time_s)
        pitch = 0.0015 * np.sin(7.1 * time_s) + 0.0012 * np.sin(2.3 * time_s + 1)
        camera = _camera(self._mount, self._size, (sway, yaw, pitch))
        ego_s = self._start + self.world.ego_speed * time_s
        return _render(self.world, self._look, camera, ego_s, time_s, index)

    def __iter__(self) -> Iterator[Scene]:
        index = 0
        while True:
            yield self.frame(index)
            index += 1

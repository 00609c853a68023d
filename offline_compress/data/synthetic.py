"""Procedurally rendered perspective roads with exact labels, for tests, demos and training.

`render_scene` draws one picture of a random world; `Drive` drives through one world over time.
The same seed gives the same picture. Labels follow the conventions of the real data: every paint
on the road is lane at its true width and drivable too; whatever hides the road, hides its labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from offline_compress.data.synth_geometry import Camera, RoadView
from offline_compress.data.synth_ground import noise_tile, render_ground
from offline_compress.data.synth_scenery import (
    OTHER,
    Canvas,
    draw_barrier,
    draw_sky,
    draw_thing,
)
from offline_compress.data.synth_vehicles import Light, draw_vehicle, vehicle_mesh
from offline_compress.data.synth_world import STYLES, Vehicle, World, build_world

REACH_M = 320.0
MIN_BOX_PX = 6.0
# A vehicle that shows less of itself than this is to be ignored, neither found nor missed.
MIN_VISIBLE = 0.25
_MAX_VEHICLES = 250


@dataclass(frozen=True)
class Scene:
    """One labelled picture of `height` x `width` pixels."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    boxes: NDArray[np.float32]  # [n, 4] x1, y1, x2, y2 pixels: tight around what is visible
    ignore_boxes: NDArray[np.float32]  # [m, 4] vehicles too small or too hidden to count
    drivable: NDArray[np.uint8]  # [H, W] 0 or 255
    lane: NDArray[np.uint8]  # [H, W] 0 or 255, a subset of drivable
    ids: NDArray[np.uint8]  # [H, W] 0 ground or sky, 255 anything else, k the k-th vehicle drawn


@dataclass(frozen=True)
class Look:
    """Light, weather and camera quality of a world."""

    light: Light
    zenith: NDArray[np.float64]
    clouds: float
    tree_shade: float
    exposure: float
    balance: NDArray[np.float64]
    contrast: float
    noise: float
    blur: float
    vignette: float
    jpeg_quality: int
    bonnet: float


@dataclass(frozen=True)
class Mount:
    """How the camera sits in the ego car."""

    fov_rad: float
    height_m: float
    yaw: float
    pitch: float
    roll: float
    x_m: float


def _look(rng: np.random.Generator, daylight: bool) -> Look:
    time = str(rng.choice(["clear", "overcast", "low", "dusk"], p=[0.4, 0.3, 0.15, 0.15]))
    if daylight and time == "dusk":
        time = "clear"
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = {"clear": rng.uniform(0.5, 1.2), "overcast": 1.0}.get(time, rng.uniform(0.12, 0.4))
    sun = np.array(
        [
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
            np.cos(elevation) * np.cos(azimuth),
        ]
    )
    direct, ambient, sky, haze, zenith = {
        "clear": (
            (1.0, 0.96, 0.88),
            (0.36, 0.40, 0.46),
            (176, 204, 236),
            (206, 218, 228),
            (86, 138, 206),
        ),
        "overcast": (
            (0.12, 0.12, 0.12),
            (0.82, 0.84, 0.86),
            (222, 226, 230),
            (226, 229, 232),
            (196, 204, 212),
        ),
        "low": (
            (1.2, 0.92, 0.66),
            (0.34, 0.36, 0.42),
            (214, 196, 176),
            (236, 214, 186),
            (118, 152, 200),
        ),
        "dusk": (
            (0.10, 0.08, 0.07),
            (0.24, 0.25, 0.31),
            (110, 112, 140),
            (150, 134, 132),
            (52, 62, 100),
        ),
    }[time]
    if time == "overcast" and rng.random() < 0.5:
        zenith, haze = (248, 249, 250), (246, 247, 248)
    vary = rng.uniform(0.85, 1.12)
    light = Light(
        sun=sun,
        direct=np.array(direct) * rng.uniform(0.8, 1.15),
        ambient=np.array(ambient) * vary,
        sky=np.array(sky, float),
        haze=np.array(haze, float),
        visibility_m=float(np.exp(rng.uniform(np.log(250), np.log(2500)))),
        lamps_on=time == "dusk" or rng.random() < 0.1,
    )
    return Look(
        light=light,
        zenith=np.array(zenith, float) * rng.uniform(0.85, 1.05),
        clouds=float(rng.choice([0.0, rng.uniform(0.3, 0.9)])),
        tree_shade=rng.uniform(0.25, 0.75)
        if time in ("clear", "low") and rng.random() < 0.4
        else 0,
        exposure=float(np.exp(rng.normal(0.0, 0.16))) * (1.3 if time == "dusk" else 1.0),
        balance=np.exp(rng.normal(0, 0.035, 3)),
        contrast=rng.uniform(0.9, 1.25),
        noise=rng.uniform(1.0, 5.0) * (1.6 if time == "dusk" else 1.0),
        blur=float(rng.choice([0.0, rng.uniform(0.4, 1.2)], p=[0.45, 0.55])),
        vignette=rng.uniform(0, 0.35),
        jpeg_quality=int(rng.integers(55, 97)),
        bonnet=rng.uniform(0.02, 0.10) if rng.random() < 0.25 else 0.0,
    )


def _mount(rng: np.random.Generator) -> Mount:
    return Mount(
        fov_rad=np.deg2rad(rng.uniform(45, 78)),
        height_m=rng.uniform(1.1, 1.75),
        yaw=rng.normal(0, 0.02),
        pitch=rng.normal(0.02, 0.045),
        roll=rng.normal(0, 0.008),
        x_m=rng.normal(0, 0.15),
    )


def _camera(mount: Mount, size: tuple[int, int], motion: tuple[float, float, float]) -> Camera:
    """`motion` is the lateral shift (m), yaw and pitch (rad) of the moment."""
    width, height = size
    focal = 0.5 * max(width, 1.3 * height) / np.tan(mount.fov_rad / 2)
    angles = (mount.yaw + motion[1], mount.pitch + motion[2], mount.roll)
    return Camera.create(width, height, focal, mount.height_m, mount.x_m + motion[0], angles)


def _shadow(
    vehicle: Vehicle, view: RoadView, camera: Camera, light: Light, sun: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Pixel outlines of a vehicle's cast shadow and of the dark ground under it."""
    mesh = vehicle_mesh(vehicle.kind, vehicle.variant)
    heading = view.heading_at(vehicle.s) + vehicle.heading
    cos, sin = np.cos(heading), np.sin(heading)
    position = view.to_ego(vehicle.s, vehicle.d)[0]
    half, end = mesh.width_m / 2, mesh.length_m / 2
    flats = []
    foot = np.array([(-half, -end), (half, -end), (half, end), (-half, end)]) * 1.02
    flats.append(foot)
    if light.direct.max() > 0.3:
        turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        hull = mesh.hull @ turn.T
        slope = np.clip(sun[[0, 2]] / max(sun[1], 0.15), -4, 4)
        flat = (hull[:, [0, 2]] - hull[:, 1:2] * slope).astype(np.float32)
        outline = cv2.convexHull(flat)[:, 0].astype(np.float64)
        # Back into the vehicle's frame, where the contact patch is given too.
        flats.append(outline @ np.array([[cos, sin], [-sin, cos]]))
    outlines = []
    for flat in flats:
        x = position[0] + flat[:, 0] * cos + flat[:, 1] * sin
        z = position[2] - flat[:, 0] * sin + flat[:, 1] * cos
        y = np.interp(z, view.z, view.y)
        outlines.append(camera.polygon(np.stack([x, y, z], axis=1)))
    return outlines


def _render(
    world: World, look: Look, camera: Camera, ego_s: float, time_s: float, frame: int
) -> Scene:
    light = look.light
    view = RoadView(world.shape, ego_s, REACH_M)
    # The view's origin is the centre line: shift it so that the ego car is in its lane.
    view.x = view.x - world.ego_d
    yaw = float(world.shape.heading(ego_s))
    cos, sin = np.cos(yaw), np.sin(yaw)
    sun = np.array(
        [
            cos * light.sun[0] - sin * light.sun[2],
            light.sun[1],
            sin * light.sun[0] + cos * light.sun[2],
        ]
    )
    light = Light(**{**vars(light), "sun": sun})
    vehicles = [v for v in world.vehicles(time_s, ego_s, 230.0) if -14 < v.s < 230]
    vehicles = sorted(vehicles, key=lambda v: -v.s)[-_MAX_VEHICLES:]
    shadows = [
        outline for v in vehicles if v.s < 120 for outline in _shadow(v, view, camera, light, sun)
    ]
    image = draw_sky(camera, light, look.zenith, look.clouds, yaw, world.seed & 0xFFFF)
    canvas = Canvas(image, np.zeros(image.shape[:2], np.uint8))
    ground = render_ground(world, view, camera, light, shadows, look.tree_shade)
    jobs: list[tuple[float, int, object]] = []
    for index, vehicle in enumerate(vehicles):
        jobs.append((vehicle.s, index + 1, vehicle))
    for thing in world.things(ego_s + 1.0, ego_s + 240.0):
        jobs.append((max(thing.s - ego_s, 1.0), 0, thing))
    for d, kind in world.barriers:
        first = int(ego_s // 8)
        for piece in range(first, first + 26):
            start = max(piece * 8.0 - ego_s, 0.3)
            jobs.append((start, 0, (start, piece * 8.0 + 8.0 - ego_s, d, kind)))
    jobs.sort(key=lambda job: -job[0])
    crest = ground.crest_s if ground else 0.0
    whole: dict[int, int] = {}
    landed = ground is None
    for s, code, item in jobs:
        if not landed and s <= crest:
            _lay_ground(canvas, ground)
            landed = True
        if isinstance(item, Vehicle):
            place = (view.to_ego(item.s, item.d)[0], view.heading_at(item.s) + item.heading, 0.0)
            drawn = draw_vehicle(
                vehicle_mesh(item.kind, item.variant), item.paint, place, camera, light
            )
            if drawn is not None:
                whole[code] = canvas.blend(drawn[0], drawn[1], code)
        elif isinstance(item, tuple):
            start, end, d, kind = item
            if end > start + 0.1:
                draw_barrier(canvas, (start, end), d, kind, (view, camera, light))
        else:
            draw_thing(canvas, item, view, camera, light)
    if not landed:
        _lay_ground(canvas, ground)
    if look.bonnet:
        _bonnet(canvas, look)
    drivable = np.zeros(canvas.ids.shape, np.uint8)
    lane = np.zeros(canvas.ids.shape, np.uint8)
    if ground is not None:
        free = canvas.ids[ground.top :] == 0
        drivable[ground.top :][ground.road & free] = 255
        lane[ground.top :][ground.lane & free] = 255
    boxes, ignore = _boxes(canvas.ids, whole)
    picture = _expose(canvas.image, look, world, frame)
    return Scene(picture, boxes, ignore, drivable, lane, canvas.ids)


def _lay_ground(canvas: Canvas, ground: object) -> None:
    cover = ground.cover
    part = canvas.image[ground.top :]
    part += cover * (ground.image - part)
    canvas.ids[ground.top :][cover[..., 0] > 0.5] = 0


def _bonnet(canvas: Canvas, look: Look) -> None:
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
        mask = ids == code
        rows = np.flatnonzero(mask.any(axis=1))
        if not len(rows):
            continue
        columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        small = min(box[2] - box[0], box[3] - box[1]) < MIN_BOX_PX
        hidden = np.count_nonzero(mask) < MIN_VISIBLE * size
        (ignore if small or hidden else keep).append(box)
    return (
        np.array(keep, np.float32).reshape(-1, 4),
        np.array(ignore, np.float32).reshape(-1, 4),
    )


def _expose(image: NDArray[np.float32], look: Look, world: World, frame: int) -> NDArray[np.uint8]:
    """What the camera makes of the light: blur, exposure, noise and compression."""
    if look.blur:
        image = cv2.GaussianBlur(image, (0, 0), look.blur * max(image.shape[:2]) / 800)
    image = image * (look.balance * look.exposure).astype(np.float32)
    height, width = image.shape[:2]
    if look.vignette:
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
        image *= 1 - np.float32(look.vignette * 0.5) * (x * x + y * y)
    image = (image - 118) * np.float32(look.contrast) + 118
    rng = world.rng(9, frame)
    tile = noise_tile(1, 18)
    y0, x0 = rng.integers(0, 512, 2)
    rows = (np.arange(height) + y0) % 512
    columns = (np.arange(width) + x0) % 512
    grain = tile[rows][:, columns] * np.float32(look.noise)
    image += grain[..., None]
    image[..., 0] += np.roll(grain, 7, axis=1) * 0.5
    image[..., 2] -= np.roll(grain, 3, axis=0) * 0.5
    picture = np.clip(image, 0, 255).astype(np.uint8)
    flags = [cv2.IMWRITE_JPEG_QUALITY, look.jpeg_quality]
    encoded = cv2.imencode(".jpg", picture[..., ::-1], flags)[1]
    return np.ascontiguousarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1])


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
    camera = _camera(_mount(rng), (width, height), motion)
    return _render(world, _look(rng, False), camera, rng.uniform(0, 5000), rng.uniform(0, 60), 0)


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
        self._mount, self._look = _mount(rng), _look(rng, True)
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

"""What stands beside a synthetic road: trees, buildings, poles, people, barriers, and the sky."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from offline_compress.data.synth_geometry import (
    FIXED_POINT_BITS,
    NEAR_M,
    Camera,
    RoadView,
    fixed_point,
)
from offline_compress.data.synth_ground import noise_tile
from offline_compress.data.synth_vehicles import Light
from offline_compress.data.synth_world import Thing

OTHER = 255  # in the id map: something that is neither ground nor a labelled vehicle
_SPRITES = 10
_FACADES = 14


@dataclass
class Canvas:
    """The picture being painted and, per pixel, what it shows (0 ground or sky, OTHER, vehicle)."""

    image: NDArray[np.float32]  # [H, W, 3] RGB 0..255
    ids: NDArray[np.uint8]  # [H, W]

    def blend(self, patch: NDArray[np.float32], corner: tuple[int, int], code: int) -> int:
        """Lay a premultiplied RGBA patch (0..255) over the picture; returns the pixels it covers."""
        left, top = corner
        x0, y0 = max(left, 0), max(top, 0)
        x1 = min(left + patch.shape[1], self.image.shape[1])
        y1 = min(top + patch.shape[0], self.image.shape[0])
        if x1 <= x0 or y1 <= y0:
            return 0
        part = patch[y0 - top : y1 - top, x0 - left : x1 - left]
        view = self.image[y0:y1, x0:x1]
        alpha = part[..., 3:]
        view *= 1.0 - alpha * np.float32(1 / 255)
        view += part[..., :3]
        solid = alpha[..., 0] >= 127.5
        self.ids[y0:y1, x0:x1][solid] = code
        return int(np.count_nonzero(solid))

    def polygon(self, outline: NDArray[np.float64], colour: NDArray[np.float64], code: int) -> None:
        """Fill an anti-aliased polygon."""
        if len(outline) < 3:
            return
        height, width = self.ids.shape
        x0, y0 = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 1, 0)
        x1 = min(int(np.ceil(outline[:, 0].max())) + 1, width)
        y1 = min(int(np.ceil(outline[:, 1].max())) + 1, height)
        if x1 <= x0 or y1 <= y0:
            return
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        points = [fixed_point(outline - (x0, y0))]
        cv2.fillPoly(mask, points, 255, cv2.LINE_AA, FIXED_POINT_BITS)
        alpha = mask.astype(np.float32)[..., None] * np.float32(1 / 255)
        view = self.image[y0:y1, x0:x1]
        view += alpha * (colour.astype(np.float32) - view)
        self.ids[y0:y1, x0:x1][mask >= 128] = code


def _speckle(alpha: NDArray[np.float32], rng: np.random.Generator, amount: float) -> None:
    tile = noise_tile(4, 14)
    y, x = rng.integers(0, 512 - alpha.shape[0]), rng.integers(0, 512 - alpha.shape[1])
    alpha *= np.clip(1.15 + amount * tile[y : y + alpha.shape[0], x : x + alpha.shape[1]], 0, 1)


@lru_cache(maxsize=64)
def _tree(kind: str, variant: int) -> tuple[NDArray[np.float32], ...]:
    """Mip levels of a premultiplied RGBA sprite, largest first."""
    rng = np.random.default_rng((21, variant, len(kind)))
    size = 224
    rgba = np.zeros((size, size, 4), np.uint8)
    if kind == "bare_tree":
        _branch(rgba, rng, (size / 2, size - 1.0), -np.pi / 2, size * 0.24, 7.0)
        image = rgba.astype(np.float32)
    else:
        bush = kind == "bush"
        trunk = (70, 58, 46, 255)
        if not bush:
            for lean in rng.normal(0, 12, 3):
                start, end = (size // 2, size - 1), (int(size / 2 + lean), size // 3)
                cv2.line(rgba, start, end, trunk, int(rng.integers(4, 9)), cv2.LINE_AA)
        conifer = not bush and rng.random() < 0.25
        green = np.array((62, 84, 40)) + rng.normal(0, (14, 12, 9))
        if rng.random() < 0.15:
            green = np.array((110, 88, 44.0))
        for step in range(130):
            rise = rng.random()
            if conifer:
                reach, y = 78 * (1 - rise) + 4, size * (0.86 - 0.82 * rise)
            elif bush:
                reach, y = 96 * np.sqrt(1 - rise**2), size * (0.96 - 0.72 * rise)
            else:
                swell = np.sqrt(max(1 - (2 * rise - 1) ** 2, 0))
                reach, y = 92 * swell, size * (0.72 - 0.66 * rise)
            x = size / 2 + rng.uniform(-1, 1) * reach
            light = 0.42 + 0.75 * rise * step / 130 + 0.25 * (x / size - 0.5) + rng.normal(0, 0.1)
            colour = tuple(np.clip(green * max(light, 0.25) * 1.35, 5, 230).tolist())
            radius = int(rng.uniform(5, 17) * (0.6 if conifer else 1.0))
            cv2.circle(rgba, (int(x), int(y)), radius, (*colour, 255), -1, cv2.LINE_AA)
        image = rgba.astype(np.float32)
        alpha = image[..., 3]
        soft = cv2.GaussianBlur(alpha, (0, 0), 4)
        alpha *= np.clip(soft / 150, 0, 1)
        _speckle(alpha, rng, 0.55 if not bush else 0.3)
        tile = noise_tile(4, 15)[:size, :size, None]
        image[..., :3] = np.clip(image[..., :3] * (1 + 0.28 * tile), 0, 255)
    image[..., :3] *= image[..., 3:] / 255
    levels = [image]
    while levels[-1].shape[0] > 14:
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return tuple(levels)


def _branch(
    rgba: NDArray[np.uint8],
    rng: np.random.Generator,
    start: tuple[float, float],
    angle: float,
    length: float,
    thick: float,
) -> None:
    end = (start[0] + np.cos(angle) * length, start[1] + np.sin(angle) * length)
    a, b = (round(start[0]), round(start[1])), (round(end[0]), round(end[1]))
    shade = rng.uniform(46, 84)
    colour = (shade, shade * 0.9, shade * 0.8, 255 if thick > 1.6 else 150)
    cv2.line(rgba, a, b, colour, max(round(thick), 1), cv2.LINE_AA)
    if thick < 0.9 or length < 5:
        return
    for _ in range(3 if thick > 2 else 2):
        _branch(
            rgba,
            rng,
            end,
            angle + rng.normal(0, 0.5),
            length * rng.uniform(0.62, 0.88),
            thick * 0.66,
        )


@lru_cache(maxsize=32)
def _facade(variant: int) -> tuple[NDArray[np.float32], ...]:
    """Mip levels of a facade texture (a factor on the wall's colour in RGB, 1 = wall)."""
    rng = np.random.default_rng((22, variant))
    size = 256
    wall = np.ones((size, size, 3), np.float32)
    wall *= 1 + 0.06 * noise_tile(4, 16)[:size, :size, None]
    if rng.random() < 0.5:
        wall[:: int(rng.integers(4, 9))] *= 0.9
    floors, bays = int(rng.integers(2, 5)), int(rng.integers(3, 8))
    storey, bay = size / floors, size / bays
    glass = np.array((0.26, 0.29, 0.33), np.float32) * rng.uniform(0.6, 1.5)
    frame = np.float32(rng.choice([1.35, 0.6]))
    wide, tall = rng.uniform(0.35, 0.8), rng.uniform(0.45, 0.7)
    for floor in range(floors):
        for column in range(bays):
            x0, y0 = (column + 0.5 - wide / 2) * bay, (floor + 0.55 - tall / 2) * storey
            x1, y1 = x0 + wide * bay, y0 + tall * storey
            ground = floor == floors - 1
            if ground and rng.random() < 0.4:
                y1 = size
            a, b, c, e = int(y0), int(y1), int(x0), int(x1)
            wall[max(a - 3, 0) : b + 3, max(c - 3, 0) : e + 3] = frame
            wall[a:b, c:e] = glass * rng.uniform(0.7, 1.9)
            if rng.random() < 0.5:
                wall[a:b, (c + e) // 2 : (c + e) // 2 + 3] = frame
    if rng.random() < 0.35:
        top = int(size - storey)
        shop = rng.uniform(0.15, 1.3, 3).astype(np.float32)
        wall[top : top + int(storey * 0.3)] = shop
    wall[:5] *= 0.6
    levels = [wall]
    while levels[-1].shape[0] > 8:
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return tuple(levels)


def draw_thing(canvas: Canvas, thing: Thing, view: RoadView, camera: Camera, light: Light) -> None:
    """Draw one piece of scenery."""
    s = thing.s - view.ego_s
    if thing.kind == "building":
        _draw_building(canvas, thing, view, camera, light)
        return
    foot = view.to_ego(s, thing.d)
    head = foot + np.array((0, thing.size[1], 0))
    seen = camera.to_camera(np.concatenate([foot, head]))
    depth = float(seen[0, 2])
    if depth < 2 * NEAR_M:
        return
    (u0, v0), (u1, v1) = camera.image(seen)
    tall = abs(v0 - v1)
    wide = thing.size[0] / depth * camera.focal_px
    if tall < 2 or max(u0, u1) + wide < 0 or min(u0, u1) - wide > camera.width:
        return
    sunny = light.ambient + 0.7 * light.direct
    if thing.kind in ("tree", "bare_tree", "bush"):
        _draw_sprite(canvas, thing, (u0, v0, wide, tall), depth, sunny, light)
    elif thing.kind == "pole":
        colour = light.through_haze(np.array(thing.tint) * sunny, depth)
        half = max(wide / 2, 0.4)
        outline = np.array([(u0 - half, v0), (u0 + half, v0), (u1 + half, v1), (u1 - half, v1)])
        canvas.polygon(outline, colour, OTHER)
        if thing.size[2] > 0:
            arm = -np.sign(thing.d) * thing.size[2] / depth * camera.focal_px
            thick = max(tall * 0.012, 0.5)
            outline = np.array([(u1, v1), (u1 + arm, v1), (u1 + arm, v1 + thick), (u1, v1 + thick)])
            canvas.polygon(outline, colour, OTHER)
    elif thing.kind == "sign":
        _draw_sign(canvas, thing.variant, (u0, v0, v1, wide), depth, sunny, light)
    else:
        _draw_person(canvas, thing, (u0, v0, tall), depth, sunny, light)


def _draw_sprite(
    canvas: Canvas,
    thing: Thing,
    place: tuple[float, float, float, float],
    depth: float,
    sunny: NDArray[np.float64],
    light: Light,
) -> None:
    u, v, wide, tall = place
    levels = _tree(thing.kind, thing.variant % _SPRITES)
    need = max(wide, tall)
    level = next((x for x in reversed(levels) if x.shape[0] >= need), levels[0])
    x0, y0 = int(np.floor(u - wide / 2)), int(np.floor(v - tall))
    height, width = canvas.ids.shape
    left, top = max(x0, 0), max(y0, 0)
    right, bottom = min(int(u + wide / 2) + 1, width), min(int(v) + 1, height)
    if right <= left or bottom <= top:
        return
    # Only the part in sight is resampled: near trees are far larger than the picture.
    fx, fy = level.shape[1] / wide, level.shape[0] / tall
    if thing.variant & 64:
        fx = -fx
    origin_x = (left - (u - wide / 2)) * abs(fx)
    origin_x = origin_x if fx > 0 else level.shape[1] - 1 - origin_x
    matrix = np.array([[fx, 0, origin_x], [0, fy, (top - (v - tall)) * fy]])
    patch = cv2.warpAffine(
        level, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    clear = np.exp(-depth / light.visibility_m)
    colour = np.array(thing.tint) * sunny * clear
    patch[..., :3] *= colour.astype(np.float32)
    patch[..., :3] += patch[..., 3:] * (light.haze * (1 - clear) / 255).astype(np.float32)
    canvas.blend(patch, (left, top), OTHER)


def _draw_sign(
    canvas: Canvas,
    variant: int,
    place: tuple[float, float, float, float],
    depth: float,
    sunny: NDArray[np.float64],
    light: Light,
) -> None:
    u, v0, v1, wide = place
    size = wide / 2

    def tone(*rgb: float) -> NDArray[np.float64]:
        return light.through_haze(np.array(rgb) * sunny, depth)

    post = max(wide * 0.05, 0.4)
    outline = np.array([(u - post, v0), (u + post, v0), (u + post, v1), (u - post, v1)])
    canvas.polygon(outline, tone(120, 122, 124), OTHER)
    sides = (3, 4, 8, 24, 24, 4)[variant]
    turn = (-np.pi / 2, np.pi / 4, np.pi / 8, 0, 0, 0)[variant]
    angles = turn + np.arange(sides) * 2 * np.pi / sides
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    centre = np.array((u, v1))
    rim = (
        (180, 30, 32),
        (28, 70, 140),
        (176, 28, 30),
        (176, 30, 32),
        (30, 74, 150),
        (220, 170, 30),
    )
    canvas.polygon(centre + ring * size, tone(*rim[variant]), OTHER)
    inner = (
        (225, 225, 220),
        (40, 90, 165),
        (200, 60, 60),
        (226, 226, 224),
        (225, 225, 225),
        (40, 40, 40),
    )
    canvas.polygon(centre + ring * size * 0.68, tone(*inner[variant]), OTHER)


def _draw_person(
    canvas: Canvas,
    thing: Thing,
    place: tuple[float, float, float],
    depth: float,
    sunny: NDArray[np.float64],
    light: Light,
) -> None:
    u, v, tall = place
    rng = np.random.default_rng((23, thing.variant))
    stride, coat = rng.uniform(0.02, 0.14), np.array(thing.tint)

    def tone(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
        return light.through_haze(rgb * sunny, depth)

    trousers = rng.uniform(18, 80, 3)
    for leg in (-1, 1):
        foot, hip = leg * stride, leg * 0.05
        outline = [(foot - 0.05, 0), (foot + 0.06, 0), (hip + 0.07, 0.5), (hip - 0.07, 0.5)]
        canvas.polygon(_figure(outline, u, v, tall), tone(trousers), OTHER)
    torso = [(-0.1, 0.46), (0.1, 0.46), (0.15, 0.66), (0.13, 0.82), (-0.13, 0.82), (-0.15, 0.66)]
    canvas.polygon(_figure(torso, u, v, tall), tone(coat), OTHER)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    head = [(0.055 * np.cos(a), 0.92 + 0.075 * np.sin(a)) for a in angles]
    skin = np.array((196, 150, 122)) * rng.uniform(0.35, 1.0)
    canvas.polygon(_figure(head, u, v, tall), tone(skin), OTHER)


def _figure(
    points: list[tuple[float, float]], u: float, v: float, tall: float
) -> NDArray[np.float64]:
    return np.array([(u + x * tall, v - y * tall) for x, y in points])


def _draw_building(
    canvas: Canvas, thing: Thing, view: RoadView, camera: Camera, light: Light
) -> None:
    width, height, depth_m = thing.size
    s0 = thing.s - view.ego_s
    s1, outward = s0 + width, np.sign(thing.d)
    s0 = max(s0, 1.5)
    if s1 <= s0 + 0.5:
        return
    d, back = thing.d, thing.d + outward * depth_m
    colour = np.array(thing.tint)
    # End wall: faces the camera; then the facade along the road; then the roof over both.
    end = np.concatenate(
        [view.to_ego(s0, x, y) for x, y in ((d, 0), (back, 0), (back, height), (d, height))]
    )
    middle = view.heading_at(s0)
    facing = np.array([[-np.sin(middle), 0.0, -np.cos(middle)]])
    side = np.array([[-outward * np.cos(middle), 0.0, outward * np.sin(middle)]])
    distance = max(float(camera.to_camera(end)[0, 2]), 1.0)
    shade = light.shade(facing)[0]
    canvas.polygon(camera.polygon(end), light.through_haze(colour * shade * 0.95, distance), OTHER)
    corners = np.concatenate(
        [view.to_ego(s, d, y) for s, y in ((s0, height), (s1, height), (s1, 0), (s0, 0))]
    )
    seen = camera.to_camera(corners)
    if seen[:, 2].min() < NEAR_M:
        return
    quad = camera.image(seen)
    wall = light.through_haze(colour * light.shade(side)[0], distance + width / 3)
    _warp_facade(canvas, quad, thing.variant % _FACADES, wall, light, distance)
    if thing.variant & 32:
        rise = height + 0.35 * depth_m
        ridge = (d + back) / 2
        roof = np.concatenate(
            [
                view.to_ego(s, x, y)
                for s, x, y in (
                    (s0, d, height),
                    (s1, d, height),
                    (s1, ridge, rise),
                    (s0, ridge, rise),
                )
            ]
        )
        gable = np.concatenate(
            [view.to_ego(s0, x, y) for x, y in ((d, height), (back, height), (ridge, rise))]
        )
        tile = np.array((96, 78, 70.0)) * light.shade(np.array([[0, 0.8, 0.6]]))[0]
        canvas.polygon(camera.polygon(roof), light.through_haze(tile, distance), OTHER)
        canvas.polygon(camera.polygon(gable), light.through_haze(colour * shade, distance), OTHER)


def _warp_facade(
    canvas: Canvas,
    quad: NDArray[np.float64],
    variant: int,
    wall: NDArray[np.float64],
    light: Light,
    distance: float,
) -> None:
    rows, columns = canvas.ids.shape
    x0, y0 = np.maximum(np.floor(quad.min(axis=0)).astype(int), 0)
    x1 = min(int(np.ceil(quad[:, 0].max())), columns)
    y1 = min(int(np.ceil(quad[:, 1].max())), rows)
    if x1 <= x0 or y1 <= y0 or np.ptp(quad[:, 0]) < 1:
        return
    need = max(min(np.ptp(quad[:, 0]), 512), np.ptp(quad[:, 1]) / 2)
    levels = _facade(variant)
    level = next((x for x in reversed(levels) if x.shape[0] >= need), levels[0])
    n = level.shape[0]
    source = np.array([(0, 0), (n, 0), (n, n), (0, n)], np.float32)
    target = (quad - (x0, y0)).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(source, target)
    size = (int(x1 - x0), int(y1 - y0))
    patch = np.empty((size[1], size[0], 4), np.float32)
    texture = cv2.warpPerspective(level, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    mask = np.zeros((size[1], size[0]), np.uint8)
    cv2.fillPoly(mask, [fixed_point(quad - (x0, y0))], 255, cv2.LINE_AA, FIXED_POINT_BITS)
    patch[..., 3] = mask
    alpha = patch[..., 3:] * np.float32(1 / 255)
    patch[..., :3] = np.minimum(texture * wall.astype(np.float32), 255) * alpha
    canvas.blend(patch, (int(x0), int(y0)), OTHER)


def draw_barrier(
    canvas: Canvas,
    span: tuple[float, float],
    d: float,
    kind: str,
    frame: tuple[RoadView, Camera, Light],
) -> None:
    """Draw the piece of a guard rail, wall, fence or hedge over the relative span (s0, s1)."""
    view, camera, light = frame
    s = np.linspace(span[0], span[1], 4)
    low, high, colour = {
        "rail": (0.45, 0.78, (168, 172, 176)),
        "concrete": (0.0, 0.85, (168, 164, 156)),
        "wall": (0.0, 1.3, (150, 112, 92)),
        "fence": (0.05, 1.2, (92, 84, 72)),
        "hedge": (0.0, 1.5, (52, 72, 36)),
    }[kind]
    distance = max(float(span[0]), 1.0)
    normal = np.array([[-np.sign(d), 0.0, 0.0]])
    lit = light.through_haze(np.array(colour) * light.shade(normal)[0] * 1.1, distance)
    outline = np.concatenate([view.to_ego(s, d, low), view.to_ego(s[::-1], d, high)])
    canvas.polygon(camera.polygon(outline), lit, OTHER)
    if kind == "rail":
        groove = np.concatenate([view.to_ego(s, d, 0.56), view.to_ego(s[::-1], d, 0.66)])
        canvas.polygon(camera.polygon(groove), lit * 0.72, OTHER)
        post = np.concatenate(
            [
                view.to_ego(x, d, y)
                for x, y in (
                    (span[0], 0),
                    (span[0] + 0.12, 0),
                    (span[0] + 0.12, 0.7),
                    (span[0], 0.7),
                )
            ]
        )
        canvas.polygon(camera.polygon(post), lit * 0.6, OTHER)
    elif kind in ("concrete", "wall"):
        cap = np.concatenate(
            [view.to_ego(s, d, high), view.to_ego(s[::-1], d + np.sign(d) * 0.3, high)]
        )
        top = light.through_haze(
            np.array(colour) * light.shade(np.array([[0, 1.0, 0]]))[0], distance
        )
        canvas.polygon(camera.polygon(cap), top, OTHER)


def draw_sky(
    camera: Camera, light: Light, zenith: NDArray[np.float64], clouds: float, yaw: float, seed: int
) -> NDArray[np.float32]:
    """Sky gradient with clouds and a far skyline, float32 [H, W, 3] RGB 0..255."""
    across, up = camera.rays(0)
    # Nothing of the sky is seen far below the horizon: leave those rows to the ground.
    rows = int(np.count_nonzero((up > -0.12).any(axis=1)))
    across, up = across[:rows], up[:rows]
    bearing = np.arctan(across[:1]) + np.float32(yaw)
    height = np.sqrt(np.clip(up * np.float32(2.2), 0, 1))[..., None]
    haze = light.haze.astype(np.float32)
    image = haze + height * (zenith.astype(np.float32) - haze)
    if clouds > 0:
        flat = 1.0 / np.maximum(up + np.float32(0.08), np.float32(0.03))
        cloud = cv2.remap(
            noise_tile(7, 17),
            np.mod(bearing * flat * np.float32(60) + np.float32(seed % 511), 512),
            np.mod(flat * np.float32(60), 512),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        amount = np.clip(cloud * 0.5 + np.float32(clouds * 1.6 - 0.8), 0, 1)[..., None]
        white = np.minimum(light.haze * 0.55 + 115.0, 255).astype(np.float32)
        image += amount * (white * (1 - np.float32(0.12) * amount) - image)
    rng = np.random.default_rng((24, seed))
    for layer in range(2):
        line = np.zeros_like(bearing[0])
        for wave in (3, 7, 15, 31, 67):
            line += np.float32(rng.normal(0, 1) / wave**0.8) * np.sin(
                bearing[0] * wave + np.float32(rng.uniform(0, 6.28))
            )
        ridge = np.float32(rng.uniform(0.0, 0.05)) + np.abs(line) * np.float32(0.035)
        tone = np.array((70, 84, 66)) * rng.uniform(0.6, 1.2) * (light.ambient + 0.6 * light.direct)
        colour = (light.haze * (0.6 - 0.3 * layer) + tone * (0.4 + 0.3 * layer)).astype(np.float32)
        inside = np.clip((ridge[None, :] - up) * np.float32(camera.focal_px) + 0.5, 0, 1)
        near = np.flatnonzero(inside.any(axis=1))
        if len(near):
            part = image[near[0] :]
            part += inside[near[0] :, :, None] * (colour - part)
    full = np.empty((camera.height, camera.width, 3), np.float32)
    full[:rows] = image
    full[rows:] = image[-1:] if rows else haze
    return full

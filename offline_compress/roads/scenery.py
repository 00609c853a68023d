"""What stands beside a synthetic road on its own foot: trees, poles, signs and people."""

import cv2
import numpy as np
from numpy.typing import NDArray

from offline_compress.roads.canvas import OTHER, Canvas
from offline_compress.roads.geometry import NEAR_M, PinholeCamera, RoadView
from offline_compress.roads.roadside import Thing
from offline_compress.roads.sprites import mip_level, tree_sprite
from offline_compress.roads.vehicles import Light

_SPRITES = 12
_RING = np.stack(
    [np.cos(np.linspace(0, 2 * np.pi, 20)), np.sin(np.linspace(0, 2 * np.pi, 20))], axis=1
)
_SIGNS = (  # corners, turn, rim and face colours
    (3, -np.pi / 2, (180, 30, 32), (225, 225, 220)),
    (4, np.pi / 4, (28, 70, 140), (40, 90, 165)),
    (8, np.pi / 8, (200, 200, 200), (170, 28, 30)),
    (24, 0.0, (176, 30, 32), (226, 226, 224)),
    (24, 0.0, (30, 74, 150), (60, 110, 180)),
    (4, 0.0, (40, 40, 40), (214, 164, 40)),
)


class _Sight:
    """A standing thing as seen: its foot (u, v) in pixels and the pixels per metre there."""

    def __init__(self, thing: Thing, view: RoadView, camera: PinholeCamera, light: Light) -> None:
        foot = view.to_ego(thing.s - view.ego_s, thing.d)
        seen = camera.to_camera(np.concatenate([foot, foot + np.array((0, thing.size[1], 0))]))
        self.depth = float(seen[0, 2])
        (self.u, self.v), (self.head_u, self.head_v) = camera.image(seen).tolist()
        self.scale = camera.focal_px / max(self.depth, NEAR_M)
        self.light = light
        self.tall = self.v - self.head_v
        self.wide = thing.size[0] * self.scale
        left, right = min(self.u, self.head_u), max(self.u, self.head_u)
        self.visible = (
            self.depth > 2 * NEAR_M
            and self.tall >= 2
            and right + self.wide > 0
            and left - self.wide < camera.width
        )

    def tone(self, colour: NDArray[np.float64]) -> NDArray[np.float64]:
        """An RGB surface colour as it looks from here."""
        lit = colour * (self.light.ambient + 0.7 * self.light.direct)
        return self.light.through_haze(lit, self.depth)

    def figure(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (right, up) in units of the thing's height to pixels."""
        return np.array((self.u, self.v)) + np.asarray(points) * (self.tall, -self.tall)


def draw_thing(
    canvas: Canvas, thing: Thing, view: RoadView, camera: PinholeCamera, light: Light
) -> None:
    """Draw one thing that is no building."""
    sight = _Sight(thing, view, camera, light)
    if not sight.visible:
        return
    if thing.kind in ("tree", "bare_tree", "bush"):
        _draw_sprite(canvas, thing, sight)
    elif thing.kind == "pole":
        _draw_pole(canvas, thing, sight)
    elif thing.kind == "sign":
        _draw_sign(canvas, thing, sight)
    else:
        _draw_person(canvas, thing, sight)


def _draw_sprite(canvas: Canvas, thing: Thing, sight: _Sight) -> None:
    wide, tall = sight.wide, sight.tall
    level = mip_level(tree_sprite(thing.kind, thing.variant % _SPRITES), max(wide, tall))
    height, width = canvas.ids.shape
    edge_x, edge_y = sight.u - wide / 2, sight.v - tall
    left, top = max(int(np.floor(edge_x)), 0), max(int(np.floor(edge_y)), 0)
    right, bottom = min(int(sight.u + wide / 2) + 1, width), min(int(sight.v) + 1, height)
    if right <= left or bottom <= top:
        return
    # Only the part in sight is resampled: near trees are far larger than the picture.
    fx, fy = level.shape[1] / wide, level.shape[0] / tall
    start = (left + 0.5 - edge_x) * fx - 0.5
    if thing.variant & 64:
        fx, start = -fx, level.shape[1] - 1 - start
    matrix = np.array([[fx, 0, start], [0, fy, (top + 0.5 - edge_y) * fy - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(level, matrix, (right - left, bottom - top), flags=flags)
    light = sight.light
    clear = np.exp(-sight.depth / light.visibility_m)
    shading = np.zeros((4, 4), np.float32)
    shading[[0, 1, 2], [0, 1, 2]] = (
        np.array(thing.tint) * (light.ambient + 0.7 * light.direct) * clear
    )
    shading[:3, 3] = light.haze * (1 - clear) / 255
    shading[3, 3] = 1
    canvas.blend(np.asarray(cv2.transform(patch, shading), np.uint8), (left, top), OTHER)


def _draw_pole(canvas: Canvas, thing: Thing, sight: _Sight) -> None:
    colour = sight.tone(np.array(thing.tint))
    half = max(sight.wide / 2, 0.4)
    u0, v0, u1, v1 = sight.u, sight.v, sight.head_u, sight.head_v
    pole = [(u0 - half, v0), (u0 + half, v0), (u1 + half * 0.6, v1), (u1 - half * 0.6, v1)]
    canvas.polygon(np.array(pole), colour, OTHER)
    if thing.size[2] > 0:
        arm = u1 - np.sign(thing.d) * thing.size[2] * sight.scale
        thick = max(sight.tall * 0.012, 0.5)
        lamp = [(u1, v1), (arm, v1 - thick), (arm, v1), (u1, v1 + thick)]
        canvas.polygon(np.array(lamp), colour, OTHER)


def _draw_sign(canvas: Canvas, thing: Thing, sight: _Sight) -> None:
    u, v0, v1, size = sight.u, sight.v, sight.head_v, sight.wide / 2
    post = max(size * 0.08, 0.4)
    outline = [(u - post, v0), (u + post, v0), (u + post, v1), (u - post, v1)]
    canvas.polygon(np.array(outline), sight.tone(np.array((120.0, 122, 124))), OTHER)
    corners, turn, rim, face = _SIGNS[thing.variant % len(_SIGNS)]
    angles = turn + np.arange(corners) * 2 * np.pi / corners
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for scale, colour in ((1.0, rim), (0.74, face)):
        tone = sight.tone(np.array(colour, np.float64))
        canvas.polygon(np.array((u, v1)) + ring * size * scale, tone, OTHER)


def _draw_person(canvas: Canvas, thing: Thing, sight: _Sight) -> None:
    rng = np.random.default_rng((23, thing.variant))
    stride, coat = rng.uniform(0.02, 0.14), np.array(thing.tint)
    trousers, skin = rng.uniform(18, 70, 3), np.array((196, 150, 122)) * rng.uniform(0.35, 1.0)
    rider = thing.kind == "cyclist"
    if rider:
        black = sight.tone(np.array((28.0, 28, 30)))
        wheel = _RING * (0.035, 0.19) + (0, 0.19)
        canvas.polygon(sight.figure(wheel), black, OTHER)
        bar = np.array([(-0.16, 0.5), (0.16, 0.5), (0.16, 0.53), (-0.16, 0.53)])
        canvas.polygon(sight.figure(bar), black, OTHER)
    lift = 0.12 if rider else 0.0
    for leg in (-1, 1):
        foot, hip = leg * (0.08 if rider else stride), leg * 0.05
        up = lift * (1 + leg * 0.6)
        shape = [(foot - 0.05, up), (foot + 0.06, up), (hip + 0.07, 0.52), (hip - 0.07, 0.52)]
        canvas.polygon(sight.figure(np.array(shape)), sight.tone(trousers), OTHER)
    torso = [
        (-0.1, 0.47),
        (0.1, 0.47),
        (0.15, 0.66),
        (0.15, 0.78),
        (0.08, 0.84),
        (-0.08, 0.84),
        (-0.15, 0.78),
        (-0.15, 0.66),
    ]
    canvas.polygon(sight.figure(np.array(torso)), sight.tone(coat), OTHER)
    right = [(0.02, 0.47), (0.1, 0.47), (0.15, 0.66), (0.15, 0.78), (0.08, 0.84), (0.05, 0.84)]
    canvas.polygon(sight.figure(np.array(right)), sight.tone(coat * 0.8), OTHER)
    head = _RING * (0.052, 0.07) + (0, 0.92)
    canvas.polygon(sight.figure(head), sight.tone(skin), OTHER)
    hair = head[(head[:, 1] > 0.925)]
    canvas.polygon(sight.figure(hair), sight.tone(rng.uniform(15, 90, 3)), OTHER)

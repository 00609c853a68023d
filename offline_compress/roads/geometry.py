"""Geometry of the synthetic roads: a pinhole camera and the road as it lies ahead of the ego car.

Road coordinates are (s, d): metres along the centre line ahead of the ego car, and metres to the
right of it. Ego coordinates are (X right, Y up, Z forward) in metres with the origin on the road
surface below the camera, Z along the road. Image coordinates are pixels with (0, 0) at the outer
corner of the first pixel, so that pixel i covers [i, i + 1).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32] | NDArray[np.float64]
NEAR_M = 0.6
FIXED_POINT_BITS = 4


@dataclass(frozen=True)
class PinholeCamera:
    """A pinhole camera above the ego origin, shifted `x_m` to the right."""

    width: int
    height: int
    focal_px: float
    cx: float
    cy: float
    height_m: float
    x_m: float
    rotation: NDArray[np.float64]  # [3, 3], ego directions to camera (right, up, forward)

    @staticmethod
    def create(
        width: int,
        height: int,
        focal_px: float,
        height_m: float,
        x_m: float,
        angles_rad: tuple[float, float, float],
    ) -> "PinholeCamera":
        """Build a camera from its yaw (right), pitch (down) and roll angles."""
        yaw, pitch, roll = angles_rad
        cos, sin = np.cos, np.sin
        about_y = np.array([[cos(yaw), 0, -sin(yaw)], [0, 1, 0], [sin(yaw), 0, cos(yaw)]])
        about_x = np.array([[1, 0, 0], [0, cos(pitch), sin(pitch)], [0, -sin(pitch), cos(pitch)]])
        about_z = np.array([[cos(roll), -sin(roll), 0], [sin(roll), cos(roll), 0], [0, 0, 1]])
        rotation = about_z @ about_x @ about_y
        return PinholeCamera(
            width, height, focal_px, width / 2, height / 2, height_m, x_m, rotation
        )

    def to_camera(self, points: FloatArray) -> NDArray[np.float64]:
        """Turn ego points [n, 3] into camera coordinates [n, 3] (right, up, forward)."""
        return (np.asarray(points, np.float64) - (self.x_m, self.height_m, 0.0)) @ self.rotation.T

    def image(self, camera_points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project camera points [n, 3] in front of the camera to pixels [n, 2]."""
        depth = np.maximum(camera_points[:, 2], 1e-3)
        u = self.cx + self.focal_px * camera_points[:, 0] / depth
        v = self.cy - self.focal_px * camera_points[:, 1] / depth
        return np.stack([u, v], axis=1)

    def polygon(self, points: FloatArray) -> NDArray[np.float64]:
        """Project an ego polygon [n, 3], cut at the near plane: pixels [m, 2], m may be 0."""
        return self.image(clip_near(self.to_camera(points)))

    def rays(self, top: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Slopes X/Z and Y/Z of the rays through the pixel centres of rows >= top, [h, w] each."""
        back = self.rotation.T.astype(np.float32)
        u = ((np.arange(self.width) + 0.5 - self.cx) / self.focal_px).astype(np.float32)[None, :]
        v = ((self.cy - np.arange(top, self.height) - 0.5) / self.focal_px).astype(np.float32)
        x, y, z = (row[0] * u + (row[1] * v + row[2])[:, None] for row in back)
        z = np.maximum(z, np.float32(0.05))
        return x / z, y / z


def clip_near(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cut a polygon in camera coordinates [n, 3] at the near plane."""
    depth = points[:, 2]
    if depth.min() >= NEAR_M:
        return points
    kept: list[NDArray[np.float64]] = []
    for i in range(len(points)):
        a, b = points[i - 1], points[i]
        if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
            kept.append(a + (b - a) * ((NEAR_M - a[2]) / (b[2] - a[2])))
        if b[2] >= NEAR_M:
            kept.append(b)
    return np.array(kept).reshape(-1, 3)


def fixed_point(polygon: FloatArray, scale: float = 1.0) -> NDArray[np.int32]:
    """Pixels [n, 2] to OpenCV's fixed point for `shift=FIXED_POINT_BITS` on a scaled canvas.

    OpenCV's pixel i is centred on i, ours covers [i, i + 1): hence the half pixel.
    """
    shifted = np.clip(np.multiply(polygon, scale) - 0.5, -30000, 30000)
    return np.round(shifted * (1 << FIXED_POINT_BITS)).astype(np.int32)


@dataclass(frozen=True)
class RoadShape:
    """An endless centre line: curvature (1/m) and height (m) as sums of sines of s."""

    bends: tuple[tuple[float, float, float], ...]  # (amplitude, wave number, phase) of curvature
    hills: tuple[tuple[float, float, float], ...]  # the same of height

    def heading(self, s: FloatArray | float) -> FloatArray:
        """Heading of the centre line to the right, in radians."""
        s = np.asarray(s, np.float64)
        return sum((-a / k * np.cos(k * s + p) for a, k, p in self.bends), np.zeros_like(s))

    def elevation(self, s: FloatArray | float) -> FloatArray:
        """Height of the road surface in metres."""
        s = np.asarray(s, np.float64)
        return sum((a * np.sin(k * s + p) for a, k, p in self.hills), np.zeros_like(s))

    def slope(self, s: float) -> float:
        """Rise per metre."""
        return float(sum(a * k * np.cos(k * s + p) for a, k, p in self.hills))


class RoadView:
    """The road from the ego position `ego_s` on, tabulated in ego coordinates."""

    STEP_M = 0.5
    BEHIND_M = 15.0

    def __init__(self, shape: RoadShape, ego_s: float, ego_d: float, reach_m: float) -> None:
        """The ego origin is `ego_d` metres right of the centre line at `ego_s`."""
        self.ego_s = ego_s
        self.s = np.arange(-self.BEHIND_M, reach_m, self.STEP_M)
        heading = shape.heading(ego_s + self.s) - shape.heading(ego_s)
        origin = round(self.BEHIND_M / self.STEP_M)
        x = np.cumsum(np.sin(heading)) * self.STEP_M
        z = np.cumsum(np.cos(heading)) * self.STEP_M
        self.heading = heading
        self.x, self.z = x - x[origin] - ego_d, z - z[origin]
        rise = shape.elevation(ego_s + self.s) - shape.elevation(ego_s)
        self.y = rise - shape.slope(ego_s) * self.z
        self._table = np.stack([self.x, self.y, self.z, np.cos(heading), np.sin(heading)], axis=1)

    def to_ego(
        self, s: FloatArray | float, d: FloatArray | float, y: FloatArray | float = 0.0
    ) -> NDArray[np.float64]:
        """Road coordinates (broadcast together) and height above the road to ego points [n, 3]."""
        place = (np.asarray(s, np.float64) + self.BEHIND_M) / self.STEP_M
        below = np.clip(place.astype(np.int64), 0, len(self._table) - 2)
        low = self._table[below]
        row = low + (self._table[below + 1] - low) * (place - below)[..., None]
        points = np.empty((np.broadcast(place, d, y).size, 3))
        points[:, 0] = row[..., 0] + d * row[..., 3]
        points[:, 1] = row[..., 1] + y
        points[:, 2] = row[..., 2] - d * row[..., 4]
        return points

    def heading_at(self, s: float) -> float:
        """Heading at `s` relative to the ego heading, in radians to the right."""
        return float(np.interp(s, self.s, self.heading))

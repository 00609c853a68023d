"""The picture being painted, together with the map of what each pixel shows."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from offline_compress.roads.geometry import FIXED_POINT_BITS, fixed_point

OTHER = 255
"""In the id map: something that is neither ground nor a labelled vehicle."""


@dataclass
class Canvas:
    """8-bit throughout: OpenCV paints and blends it several times faster than float."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    ids: NDArray[np.uint8]  # [H, W] 0 ground or sky, OTHER, else the number of a vehicle

    def blend(self, patch: NDArray[np.uint8], corner: tuple[int, int], code: int) -> int:
        """Lay a premultiplied RGBA patch [h, w, 4] over the picture, its top left at `corner`.

        The patch must lie inside the picture. Returns the number of pixels it mostly covers.
        """
        left, top = corner
        height, width = patch.shape[:2]
        view = self.image[top : top + height, left : left + width]
        alpha = np.ascontiguousarray(patch[..., 3])
        behind = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2RGB)
        rest = cv2.multiply(view, behind, scale=1 / 255)
        cv2.add(rest, cv2.cvtColor(patch, cv2.COLOR_RGBA2RGB), dst=rest)
        view[:] = rest
        solid = alpha >= 128
        self.ids[top : top + height, left : left + width][solid] = code
        return int(np.count_nonzero(solid))

    def polygon(self, outline: NDArray[np.float64], colour: NDArray[np.float64], code: int) -> None:
        """Fill an anti-aliased polygon [n, 2] in pixels with an RGB colour 0..255."""
        if len(outline) < 3:
            return
        points = [fixed_point(outline)]
        rgb = np.clip(colour, 0, 255).tolist()
        cv2.fillPoly(self.image, points, rgb, cv2.LINE_AA, FIXED_POINT_BITS)
        cv2.fillPoly(self.ids, points, code, cv2.LINE_8, FIXED_POINT_BITS)

"""From a source image of any size to the network's input, and exactly back.

Coordinates are those of pixel edges: the left edge of the first pixel is 0, the right edge of the
last is the width. `cv2.resize` aligns images by their edges too, so boxes, masks and pixels all
follow the same map.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.images import SourceImage
from mtc_perception.core.input_size import Fit

PAD_VALUE = 114

_TO_RGB = {
    "bgr": cv2.COLOR_BGR2RGB,
    "rgba": cv2.COLOR_RGBA2RGB,
    "bgra": cv2.COLOR_BGRA2RGB,
    "mono": cv2.COLOR_GRAY2RGB,
}


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Scales a source image into the middle of the network's input, keeping its shape, or stretches
    it to fill the input.

    The scaled image has whole pixels, so the two axes' scales differ slightly; each is exact.
    """

    src_height: int
    src_width: int
    dst_height: int
    dst_width: int
    top: int
    left: int
    height: int
    """Rows of the network's input that the image covers, from `top` on."""
    width: int
    """Columns of the network's input that the image covers, from `left` on."""

    @classmethod
    def fit(
        cls,
        src_height: int,
        src_width: int,
        dst_height: int,
        dst_width: int,
        fit: Fit = "letterbox",
    ) -> "Letterbox":
        """The largest letterbox for these sizes in pixels, all at least 1."""
        height, width = dst_height, dst_width
        if fit == "letterbox":
            scale = min(dst_height / src_height, dst_width / src_width)
            height = min(max(round(src_height * scale), 1), dst_height)
            width = min(max(round(src_width * scale), 1), dst_width)
        return cls(
            src_height=src_height,
            src_width=src_width,
            dst_height=dst_height,
            dst_width=dst_width,
            top=(dst_height - height) // 2,
            left=(dst_width - width) // 2,
            height=height,
            width=width,
        )

    @property
    def scale_x(self) -> float:
        """Network pixels per source pixel."""
        return self.width / self.src_width

    @property
    def scale_y(self) -> float:
        """Network pixels per source pixel."""
        return self.height / self.src_height

    def averages(self, image: SourceImage) -> bool:
        """Whether network pixels are means of the pixels they cover, not interpolated."""
        height, width = image.pixels.shape[:2]
        return _averages(height, width, self.height, self.width)

    def write(self, image: SourceImage, out: npt.NDArray[np.uint8]) -> None:
        """Write `image`, of this letterbox's source size, into `out`, uint8 `[H, W, 3]` RGB.

        It may have fewer pixels than its size says.
        """
        # Every time, although they seldom change: it takes microseconds.
        out[: self.top] = PAD_VALUE
        out[self.top + self.height :] = PAD_VALUE
        out[:, : self.left] = PAD_VALUE
        out[:, self.left + self.width :] = PAD_VALUE
        region = self._region(out)
        same_size = (self.height, self.width) == image.pixels.shape[:2]
        if image.format == "rgb":
            if same_size:
                np.copyto(region, image.pixels)
            else:
                _resize(image.pixels, self.height, self.width, region)
            return
        # Colours are converted after scaling: there are fewer pixels by then.
        pixels = image.pixels if same_size else _resize(image.pixels, self.height, self.width)
        cv2.cvtColor(pixels, _TO_RGB[image.format], dst=region)

    def boxes_to_network(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """`[n, 4]` x1, y1, x2, y2 from source to network pixels."""
        return (boxes * self._box_scale() + self._box_offset()).astype(np.float32)

    def boxes_to_source(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """`[n, 4]` x1, y1, x2, y2 from network to source pixels, clipped to the image."""
        limits = np.array([self.src_width, self.src_height] * 2, np.float64)
        source = (boxes - self._box_offset()) / self._box_scale()
        return np.clip(source, 0.0, limits).astype(np.float32)

    def mask_to_network(self, mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """`[src_height, src_width]` values scaled into `[dst_height, dst_width]`, 0 outside."""
        out = np.zeros((self.dst_height, self.dst_width), np.uint8)
        _resize(mask, self.height, self.width, self._region(out))
        return out

    def mask_to_source(self, mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """`[dst_height, dst_width]` values interpolated to a new `[src_height, src_width]`."""
        return _resize(self._region(mask), self.src_height, self.src_width)

    def _region(self, array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return array[self.top : self.top + self.height, self.left : self.left + self.width]

    def _box_scale(self) -> npt.NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2, np.float64)

    def _box_offset(self) -> npt.NDArray[np.float64]:
        return np.array([self.left, self.top] * 2, np.float64)


def to_rgb(image: SourceImage) -> npt.NDArray[np.uint8]:
    """A copy of the image's pixels, uint8 `[H, W, 3]`, RGB."""
    rgb = np.empty((*image.pixels.shape[:2], 3), np.uint8)
    # A letterbox onto the image's own size only converts the colours.
    Letterbox.fit(*rgb.shape[:2], *rgb.shape[:2]).write(image, rgb)
    return rgb


def _resize(
    pixels: npt.NDArray[np.uint8],
    height: int,
    width: int,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    averages = _averages(pixels.shape[0], pixels.shape[1], height, width)
    interpolation = cv2.INTER_AREA if averages else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, (width, height), dst=out, interpolation=interpolation)
    return resized.astype(np.uint8, copy=False)


def _averages(src_height: int, src_width: int, height: int, width: int) -> bool:
    # Bilinear interpolation looks at four pixels only; below half size it would skip some. Where
    # one side grows, OpenCV has no means.
    if height > src_height or width > src_width:
        return False
    return 2 * height < src_height or 2 * width < src_width

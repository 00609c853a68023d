"""Pictures of a page: JPEG files inside it, side by side under one heading."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.uint8]
"""uint8 [H, W, 3]"""


@dataclass(frozen=True, slots=True)
class Picture:
    """Views of one image, side by side."""

    caption: str
    views: Mapping[str, bytes]
    """JPEG files by what they show."""
    anchor: str = ""
    """Id on the page, to link to."""


@dataclass(frozen=True, slots=True)
class PictureGroup:
    """Pictures under one heading."""

    title: str
    pictures: Sequence[Picture]


def data_uri(file: bytes) -> str:
    """A JPEG file as the address of a picture in a page."""
    return "data:image/jpeg;base64," + base64.b64encode(file).decode()


def jpeg(rgb: Rgb, quality: int = 85) -> bytes:
    """The image as a JPEG file."""
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data.tobytes())


def shrink(rgb: Rgb, width: int) -> Rgb:
    """The image at most `width` pixels wide, its sides even as video codecs want them."""
    scale = min(width / rgb.shape[1], 1.0)
    size = tuple(max(round(side * scale / 2) * 2, 2) for side in rgb.shape[1::-1])
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)

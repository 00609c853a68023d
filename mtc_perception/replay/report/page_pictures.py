"""Pictures of a page: JPEG files inside it, side by side under one heading."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Picture:
    """Views of one image, side by side."""

    caption: str
    views: Mapping[str, bytes]
    """JPEG files by what they show."""
    anchor: str = ""
    """Id on the page, to link to."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures under one heading."""

    title: str
    pictures: Sequence[Picture]


def data_uri(jpeg: bytes) -> str:
    """A JPEG file as the address of a picture in a page."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()

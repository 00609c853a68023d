"""The size of a network's input, and how images are made to fill it."""

from typing import Literal, NamedTuple

Fit = Literal["letterbox", "stretch"]
"""letterbox: an image keeps its shape, the rest is padding; stretch: it fills the input."""


class InputSize(NamedTuple):
    """Of a network's input, in pixels."""

    height: int
    width: int
    fit: Fit = "letterbox"

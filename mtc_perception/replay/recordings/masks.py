"""Masks that are kept for a while, at one bit per pixel."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class PackedMask:
    """A mask of 0 and 255 at one bit per pixel."""

    height: int
    width: int
    bits: bytes

    @classmethod
    def pack(cls, mask: npt.NDArray[np.uint8] | npt.NDArray[np.bool_]) -> "PackedMask":
        """`mask` is [H, W], foreground where not 0."""
        height, width = mask.shape
        return cls(height, width, np.packbits(mask).tobytes())

    def unpack(self) -> npt.NDArray[np.uint8]:
        """uint8 [H, W], 0 or 255."""
        return self._pixels() * np.uint8(255)

    def unpack_bool(self) -> npt.NDArray[np.bool_]:
        """bool [H, W]"""
        return self._pixels().view(np.bool_)

    def _pixels(self) -> npt.NDArray[np.uint8]:
        size = self.height * self.width
        flat = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=size)
        return flat.reshape(self.height, self.width)

"""Masks at one bit per pixel: an eighth of the memory to keep, to write and to go through."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
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

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def count(self) -> int:
        """Foreground pixels."""
        return round(cv2.norm(self._bytes(), cv2.NORM_HAMMING))

    def count_differing(self, other: "PackedMask") -> int:
        """Pixels that are foreground in either of two masks of one size, not in both."""
        return round(cv2.norm(self._bytes(), other._bytes(), cv2.NORM_HAMMING))

    def unpack(self) -> npt.NDArray[np.uint8]:
        """uint8 [H, W], 0 or 255."""
        return self._pixels() * np.uint8(255)

    def unpack_bool(self) -> npt.NDArray[np.bool_]:
        """bool [H, W]"""
        return self._pixels().view(np.bool_)

    def _pixels(self) -> npt.NDArray[np.uint8]:
        flat = np.unpackbits(self._bytes(), count=self.height * self.width)
        return flat.reshape(self.height, self.width)

    def _bytes(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.bits, np.uint8)


def packed(mask: npt.NDArray[np.uint8] | npt.NDArray[np.bool_] | None) -> PackedMask | None:
    """`PackedMask.pack`, None of None."""
    return None if mask is None else PackedMask.pack(mask)


def unpacked(mask: PackedMask | None) -> npt.NDArray[np.uint8] | None:
    """`PackedMask.unpack`, None of None."""
    return None if mask is None else mask.unpack()

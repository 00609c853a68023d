"""The messages of a recording, made ahead of time."""

import itertools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import cv2
import numpy as np
import psutil
from sensor_msgs.msg import CompressedImage, Image

from mtc_perception.core.images import SourceImage
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.recordings.recording import (
    BrokenPixels,
    EncodedPixels,
    Pixels,
    RawPixels,
    SourceError,
    SourceFrame,
    Transport,
    first_seconds,
)
from mtc_perception.util.errors import ImageError
from mtc_perception.util.read_ahead import ReadAhead

_JPEG_QUALITY = 90
_TO_BGR = {
    "rgb": cv2.COLOR_RGB2BGR,
    "rgba": cv2.COLOR_RGBA2BGR,
    "bgra": cv2.COLOR_BGRA2BGR,
}
_BUDGET_BYTES = 2**30
_MEMORY_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """One live run."""

    recording: Recording
    """Of a bag, one camera."""
    options: ReplayOptions
    transport: Transport
    """Of what is played."""
    repeat_s: float | None = None
    """Begin again until this much time has passed; None is once."""
    keep_results: bool = True
    """Keep boxes and masks, not only times."""

    @property
    def faithful(self) -> bool:
        """Recorded stamps, /clock, and images as they are; else as a camera would now."""
        return self.options.transport is None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Sent while images are prepared; the rest of a long recording is read while it plays."""

    frames: int
    done: bool


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One image as a message."""

    index: int
    stamp_ns: int
    message: Image | CompressedImage


class Reel:
    """The messages of a recording, read ahead as far as a budget of memory goes."""

    def __init__(self, config: LiveConfig) -> None:
        self.reason = ""
        self._config = config
        self._source = config.recording.open()
        self.rate_hz = self._source.info.rate_hz
        budget = min(_BUDGET_BYTES, int(psutil.virtual_memory().available * _MEMORY_SHARE))
        self._ahead = ReadAhead(self._items(), budget, lambda item: len(item.message.data))

    def load(self, connection: Connection) -> None:
        """Fill the budget, telling how far it is. Raises SourceError."""
        full = False
        while not full:
            frames, full = self._ahead.fill(0.1)
            connection.send(Prepared(frames, done=False))
        if not frames:
            reason = self.reason and f"; {self.reason}"
            raise SourceError(f"{self._config.recording.path} holds no usable image{reason}")
        if self._config.repeat_s is not None and not self._ahead.complete:
            raise SourceError(f"{frames} images fill the memory to repeat from: use --seconds")
        connection.send(Prepared(frames, done=True))

    def __iter__(self) -> Iterator[Item]:
        return iter(self._ahead) if self._config.repeat_s is None else itertools.cycle(self._ahead)

    def close(self) -> None:
        self._ahead.close()

    def _items(self) -> Iterator[Item]:
        for frame in first_seconds(self._source.frames(), self._config.options.seconds):
            try:
                yield Item(frame.index, frame.stamp_ns, self._message(frame))
            except ImageError as error:
                self.reason = self.reason or f"image {frame.index}: {error}"

    def _message(self, frame: SourceFrame) -> Image | CompressedImage:
        pixels, transport = frame.pixels, self._config.transport
        if not self._config.faithful:
            return _camera_message(pixels, pixels.decode(), transport)
        if isinstance(pixels, BrokenPixels):
            raise ImageError(pixels.reason)
        if isinstance(pixels, EncodedPixels) != (transport == "compressed"):
            raise ImageError(f"is not {transport} as the first image is")
        return _plain_message(pixels)


def _plain_message(pixels: RawPixels | EncodedPixels) -> Image | CompressedImage:
    data = array("B")
    data.frombytes(np.frombuffer(pixels.data, np.uint8).data)
    if isinstance(pixels, EncodedPixels):
        return CompressedImage(format=pixels.format, data=data)
    return Image(
        height=pixels.height,
        width=pixels.width,
        encoding=pixels.encoding,
        step=pixels.step,
        data=data,
    )


def _camera_message(
    pixels: Pixels, image: SourceImage, transport: Transport
) -> Image | CompressedImage:
    """`image` is the decoded `pixels`; what needs no conversion is sent as it was recorded."""
    assert not isinstance(pixels, BrokenPixels)
    if transport == "compressed" and isinstance(pixels, RawPixels):
        code = _TO_BGR.get(image.format)
        plain = image.pixels if code is None else cv2.cvtColor(image.pixels, code)
        _, jpeg = cv2.imencode(".jpg", plain, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        pixels = EncodedPixels("jpeg", jpeg.tobytes())
    elif transport == "raw" and isinstance(pixels, EncodedPixels):
        width = image.width
        flat = image.pixels.reshape(-1)
        pixels = RawPixels(f"{image.format}8", image.height, width, 3 * width, flat)
    return _plain_message(pixels)

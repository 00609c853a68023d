"""What a recording yields, whatever it is stored in: timestamped images, and labels where known."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple, Protocol, TypeVar

from mtc_perception.core.images import (
    ByteData,
    SourceImage,
    compressed_size,
    decode_compressed,
    view_image,
)
from mtc_perception.core.input_size import InputSize
from mtc_perception.core.truth import GroundTruth
from mtc_perception.util.errors import ImageError, UserError

NS_PER_S = 1_000_000_000
SourceKind = Literal["bag", "video", "images"]
Transport = Literal["raw", "compressed"]
"""The message that images travel in: sensor_msgs/Image or CompressedImage."""


class SourceError(UserError):
    """A recording is missing, unreadable, or does not hold what was asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class RawPixels:
    """The fields of a `sensor_msgs/Image`; `step` is bytes per row."""

    encoding: str
    height: int
    width: int
    step: int
    data: ByteData

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def decode(self, fit: InputSize | None = None) -> SourceImage:
        """The pixels. Raises ImageError."""
        return view_image(self.encoding, self.height, self.width, self.step, self.data)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPixels:
    """A JPEG, PNG or WebP file; `format` as in a `sensor_msgs/CompressedImage`."""

    format: str
    data: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width. Raises ImageError."""
        return compressed_size(self.data)

    def decode(self, fit: InputSize | None = None) -> SourceImage:
        """The pixels; `fit` as of `decode_compressed`. Raises ImageError."""
        return decode_compressed(self.data, fit, self.format)


@dataclass(frozen=True, slots=True)
class BrokenPixels:
    """An image whose message is damaged."""

    reason: str

    @property
    def size(self) -> tuple[int, int]:
        """Raises ImageError."""
        raise ImageError(self.reason)

    def decode(self, fit: InputSize | None = None) -> SourceImage:
        """Raises ImageError."""
        raise ImageError(self.reason)


Pixels = RawPixels | EncodedPixels | BrokenPixels


@dataclass(frozen=True, slots=True, eq=False)
class SourceFrame:
    """One image of a recording."""

    index: int
    """Position in the recording, from 0."""
    stamp_ns: int
    """The image's own time: its header stamp in a bag, else counted from 0 by the frame rate."""
    pixels: Pixels
    name: str = ""
    """Name of the image's file without suffix; empty in bags and videos."""
    frame_id: str = ""
    """Of the header in a bag, else empty."""


class LabelledFrame(NamedTuple):
    """One image and its labels, None where it has none."""

    frame: SourceFrame
    truth: GroundTruth | None

    @property
    def stamp_ns(self) -> int:
        """The image's."""
        return self.frame.stamp_ns


@dataclass(frozen=True, slots=True)
class Note:
    """One kind of trouble."""

    kind: str
    count: int
    first: str
    """Where it was met first, and what it was."""

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.kind}{times}: {self.first}"


class Notes:
    """Collects notes: one per kind, however often it happens."""

    def __init__(self, notes: Iterable[Note] = ()) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}
        for note in notes:
            self.add(note.kind, note.first, note.count)

    def add(self, kind: str, what: str, count: int = 1) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + count
        self._first.setdefault(kind, what)

    def add_all(self, other: "Notes") -> None:
        for note in other.all():
            self.add(note.kind, note.first, note.count)

    def all(self) -> list[Note]:
        """In the order in which the kinds were met first."""
        return [Note(kind, count, self._first[kind]) for kind, count in self._counts.items()]


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a recording before it is read."""

    name: str
    """File or folder name, without the way to it."""
    kind: SourceKind
    topic: str | None
    """The image topic, in a bag."""
    frames: int
    """Number of images; of a video what its container claims."""
    rate_hz: float

    def frames_within(self, seconds: float | None) -> int:
        """Images of so much of the beginning, None for all, as far as the recording tells."""
        return self.frames if seconds is None else min(self.frames, ceil(seconds * self.rate_hz))


class FrameSource(Protocol):
    """A recording, readable several times, each time as a stream."""

    @property
    def info(self) -> SourceInfo: ...

    def frames(self) -> Iterator[SourceFrame]:
        """The images in recorded order. Raises SourceError where nothing can be read."""

    def labelled_frames(self, notes: Notes) -> Iterator[LabelledFrame]:
        """The images and their labels, in recorded order; what is wrong is noted.

        Raises SourceError where nothing can be read.
        """


class _Stamped(Protocol):
    @property
    def stamp_ns(self) -> int: ...


T = TypeVar("T", bound=_Stamped)


def first_seconds(frames: Iterable[T], seconds: float | None) -> Iterator[T]:
    """The frames whose stamp is less than `seconds` after the first one's; None is all."""
    first_ns: int | None = None
    for frame in frames:
        first_ns = frame.stamp_ns if first_ns is None else first_ns
        if seconds is not None and frame.stamp_ns - first_ns >= seconds * NS_PER_S:
            return
        yield frame

"""The only place that knows message fields: pure conversions, nothing is sent from here.

What every image takes and gives is read and written in its serialised form, CDR: rclpy would make
and copy a Python object of every field on the way.
"""

import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo, VisionClass

from mtc_perception.core.images import SourceImage, decode_compressed, view_image
from mtc_perception.core.input_size import InputSize
from mtc_perception.core.perception import Perception
from mtc_perception.runtime.frames import STAGES, FrameTimes
from mtc_perception.util.errors import ImageError

_BIG_ENDIAN, _LITTLE_ENDIAN = b"\0\0\0\0", b"\0\1\0\0"
"""How a serialised message begins; what follows is aligned as if it began there."""
_UINT32 = struct.Struct("<I")
_SCORE_POSE_BOX = struct.Struct("<d344s5d")
# Position, orientation and covariance of an object in space, of which nothing is known.
_NO_POSE = struct.pack("<43d", *[0.0] * 6, 1.0, *[0.0] * 36)
_MOST_FRAME_ID_CHARS = 256
"""A longer one is nobody's frame, and would be repeated in every output and every detection."""


def stamp_ns(header: Header) -> int:
    """Nanoseconds since the epoch of a header's stamp."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def serialised_stamp_ns(message: bytes) -> int:
    """`stamp_ns` of a serialised message that begins with a header. Raises ImageError."""
    return stamp_ns(_CdrReader(message).header())


@dataclass(frozen=True, slots=True)
class ReceivedImage:
    """A `sensor_msgs/Image`, or the `CompressedImage` of a file, unpacked as far as that goes."""

    header: Header = field(default_factory=Header)
    compressed: bool = False
    encoding: str = ""
    height: int = 0
    width: int = 0
    step: int = 0
    data: bytes | memoryview = b""
    """A view of the serialised message."""
    format: str = ""
    """What a compressed one calls its format; the file itself knows better."""
    problem: str = ""
    """Why the message cannot be read; empty if it can."""


def received_image(message: bytes, compressed: bool) -> ReceivedImage:
    """Unpack a serialised image message, in microseconds. Never raises: see `problem`."""
    header = Header()
    try:
        fields = _CdrReader(message)
        header = fields.header()
        if (length := len(header.frame_id)) > _MOST_FRAME_ID_CHARS:
            header.frame_id = ""
            raise ImageError(
                f"frame_id has {length} characters, at most {_MOST_FRAME_ID_CHARS} are taken"
            )
        if compressed:
            called = fields.string()
            data = fields.octets(fields.uint32())
            return ReceivedImage(header, compressed, data=data, format=called)
        height, width, encoding = fields.uint32(), fields.uint32(), fields.string()
        fields.octets(1)  # is_bigendian, of what no supported encoding has
        step = fields.uint32()
        data = fields.octets(fields.uint32())
    except ImageError as error:
        return ReceivedImage(header, compressed, problem=str(error))
    return ReceivedImage(header, compressed, encoding, height, width, step, data)


def source_image(image: ReceivedImage, fit: InputSize | None = None) -> SourceImage:
    """The pixels of an image message; raises ImageError naming what is wrong with it.

    A compressed one may have fewer than its size says if it is going to be scaled into `fit`, as
    `decode_compressed` has it.
    """
    if image.problem:
        raise ImageError(image.problem)
    if image.compressed:
        return decode_compressed(image.data, fit, image.format)
    return view_image(image.encoding, image.height, image.width, image.step, image.data)


def detections_message(header: Header, perception: Perception, classes: Sequence[str]) -> bytes:
    """A `Detection2DArray`: one `Detection2D` per box, best first; `class_id` is the class name."""
    stamped, names = _header(header), [_string(name) for name in classes]
    message = _CdrWriter()
    message.put(4, stamped)
    message.put(4, _UINT32.pack(len(perception.boxes)))
    for (x1, y1, x2, y2), score, label in zip(
        perception.boxes.tolist(),
        perception.scores.tolist(),
        perception.labels.tolist(),
        strict=True,
    ):
        message.put(4, stamped)
        message.put(4, _UINT32.pack(1))  # results
        message.put(4, names[label])
        centre_and_size = (x1 + x2) / 2, (y1 + y2) / 2, 0.0, x2 - x1, y2 - y1
        message.put(8, _SCORE_POSE_BOX.pack(score, _NO_POSE, *centre_and_size))
        message.put(4, _string(""))  # id
    return message.serialised()


def image_message(header: Header, encoding: str, pixels: npt.NDArray[np.uint8]) -> bytes:
    """An `Image` of `pixels` [H, W] or [H, W, channels]."""
    height, width = pixels.shape[:2]
    message = _CdrWriter()
    message.put(4, _header(header))
    message.put(4, struct.pack("<2I", height, width))
    message.put(4, _string(encoding))
    message.put(1, b"\0")  # is_bigendian
    message.put(4, struct.pack("<2I", pixels.size // height, pixels.size))
    return message.serialised(pixels)


def label_info_message(classes: Sequence[str], threshold: float) -> LabelInfo:
    """Every class by its index, and the score below which none is published."""
    class_map = [VisionClass(class_id=i, class_name=name) for i, name in enumerate(classes)]
    return LabelInfo(class_map=class_map, threshold=threshold)


def timing_message(
    header: Header, camera: str, engine: str, times: FrameTimes, clock: str
) -> bytes:
    """A `DiagnosticArray` of where the time of one frame went: a value in ms for each of `STAGES`,
    "nan" if unknown.

    The status message says whether the stamp can be trusted; the header is the image's, so the
    timing can be joined with the outputs.
    """
    values = {stage: f"{getattr(times, stage):.3f}" for stage in STAGES}
    return _diagnostic_array(header, DiagnosticStatus.OK, camera, clock, engine, values)


def rejection_message(header: Header, camera: str, reason: str) -> bytes:
    """In place of its timing: why an image was not processed; the header is the image's."""
    return _diagnostic_array(header, DiagnosticStatus.WARN, camera, reason, "", {})


def rejection(message: DiagnosticArray) -> str:
    """The reason of a `rejection_message`; empty for a `timing_message`."""
    status = message.status[0]
    return "" if status.values else status.message


def times_from_message(message: DiagnosticArray) -> FrameTimes:
    """The inverse of `timing_message`."""
    values = {entry.key: float(entry.value) for entry in message.status[0].values}
    return FrameTimes(**{stage: values[stage] for stage in STAGES})


def status_message(
    name: str, level: bytes, message: str, values: Mapping[str, object], hardware_id: str
) -> DiagnosticStatus:
    """A diagnostic status; floats are printed with three decimals."""
    return DiagnosticStatus(
        name=name,
        level=level,
        message=message,
        hardware_id=hardware_id,
        values=[
            KeyValue(key=key, value=f"{value:.3f}" if isinstance(value, float) else str(value))
            for key, value in values.items()
        ],
    )


def _diagnostic_array(
    header: Header,
    level: bytes,
    name: str,
    words: str,
    hardware_id: str,
    values: Mapping[str, str],
) -> bytes:
    message = _CdrWriter()
    message.put(4, _header(header))
    message.put(4, _UINT32.pack(1))  # status
    message.put(1, level)
    for text in (name, words, hardware_id):
        message.put(4, _string(text))
    message.put(4, _UINT32.pack(len(values)))
    for text in itertools.chain.from_iterable(values.items()):
        message.put(4, _string(text))
    return message.serialised()


class _CdrReader:
    """Takes the fields of a serialised message in their order; ImageError where it ends early."""

    def __init__(self, message: bytes) -> None:
        start = message[: len(_LITTLE_ENDIAN)]
        if start not in (_BIG_ENDIAN, _LITTLE_ENDIAN):
            raise ImageError(f"message is not plain CDR: it begins with {start.hex() or 'nothing'}")
        self._order: Literal["big", "little"] = "big" if start == _BIG_ENDIAN else "little"
        self._data = memoryview(message)[len(start) :]
        self._position = 0

    def header(self) -> Header:
        header = Header()
        header.stamp.sec = int.from_bytes(self._aligned4(), self._order, signed=True)
        header.stamp.nanosec = self.uint32()
        header.frame_id = self.string()
        return header

    def uint32(self) -> int:
        return int.from_bytes(self._aligned4(), self._order)

    def string(self) -> str:
        return bytes(self.octets(self.uint32())).rstrip(b"\0").decode(errors="replace")

    def octets(self, count: int) -> memoryview:
        begin = self._position
        self._position += count
        if self._position > len(self._data):
            raise ImageError(
                f"message is cut off: it has {len(self._data)} bytes, its fields need at least"
                f" {self._position}"
            )
        return self._data[begin : self._position]

    def _aligned4(self) -> memoryview:
        self._position += -self._position % 4
        return self.octets(4)


class _CdrWriter:
    """Puts the fields of a message behind one another, little-endian."""

    def __init__(self) -> None:
        self._data = bytearray()

    def put(self, alignment: int, field: bytes) -> None:
        """Append a field, or several whose alignments the first one's implies."""
        self._data += bytes(-len(self._data) % alignment)
        self._data += field

    def serialised(self, data: npt.NDArray[np.uint8] | None = None) -> bytes:
        """The message, with `data` as the octets at its end."""
        end = b"" if data is None else np.ascontiguousarray(data).data
        return b"".join((_LITTLE_ENDIAN, self._data, end))


def _header(header: Header) -> bytes:
    return struct.pack("<iI", header.stamp.sec, header.stamp.nanosec) + _string(header.frame_id)


def _string(text: str) -> bytes:
    content = text.encode() + b"\0"
    return _UINT32.pack(len(content)) + content

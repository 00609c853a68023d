"""The only place that knows message fields: pure conversions, nothing is sent from here."""

from array import array
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
)

from mtc_perception.core.images import SourceImage, decode_compressed, view_image
from mtc_perception.core.perception import Perception
from mtc_perception.runtime.frames import STAGES, FrameTimes


def stamp_ns(header: Header) -> int:
    """Nanoseconds since the epoch of a header's stamp."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def source_image(
    message: Image | CompressedImage, fit: tuple[int, int] | None = None
) -> SourceImage:
    """The pixels of an image message; raises ImageError naming what is wrong with it.

    A compressed one may have fewer than its size says if it is going to be scaled into `fit`, as
    `decode_compressed` has it.
    """
    if isinstance(message, CompressedImage):
        return decode_compressed(message.data, fit)
    return view_image(message.encoding, message.height, message.width, message.step, message.data)


def detections_message(
    header: Header, perception: Perception, classes: Sequence[str]
) -> Detection2DArray:
    """One `Detection2D` per box, best first; `class_id` is the class name."""
    detections = []
    boxes = perception.boxes.tolist()
    for (x1, y1, x2, y2), score, label in zip(
        boxes, perception.scores.tolist(), perception.labels.tolist(), strict=True
    ):
        detection = Detection2D(header=header)
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = classes[label]
        result.hypothesis.score = score
        detection.results = [result]
        detection.bbox.center.position.x = (x1 + x2) / 2
        detection.bbox.center.position.y = (y1 + y2) / 2
        detection.bbox.size_x = x2 - x1
        detection.bbox.size_y = y2 - y1
        detections.append(detection)
    return Detection2DArray(header=header, detections=detections)


def label_info_message(classes: Sequence[str], threshold: float) -> LabelInfo:
    """Every class by its index, and the score below which none is published."""
    class_map = [VisionClass(class_id=i, class_name=name) for i, name in enumerate(classes)]
    return LabelInfo(class_map=class_map, threshold=threshold)


class ImageWriter:
    """One image message, filled again for every frame.

    Reuse saves allocating a full image per frame. Only `array('B')` takes the fast path into
    the message and out of it; bytes or ndarrays cost up to 100 ms at 720p. Publishing copies, so
    the message may be refilled as soon as `publish` returns.
    """

    def __init__(self, encoding: str, channels: int) -> None:
        self._message = Image(encoding=encoding)
        self._channels = channels
        self._pixels: npt.NDArray[np.uint8] = np.empty(0, np.uint8)

    def write(self, header: Header, pixels: npt.NDArray[np.uint8]) -> Image:
        """The message showing `pixels` [H, W] or [H, W, channels]; valid until the next call."""
        height, width = pixels.shape[:2]
        message = self._message
        if (message.height, message.width) != (height, width):
            message.height, message.width = height, width
            message.step = width * self._channels
            message.data = array("B", bytes(pixels.size))
            # The setter may have copied (it does from Jazzy on), so ask for what is in there now.
            self._pixels = np.frombuffer(message.data, np.uint8)
        message.header = header
        np.copyto(self._pixels.reshape(pixels.shape), pixels)
        return message


def timing_message(
    header: Header, camera: str, engine: str, times: FrameTimes, clock: str
) -> DiagnosticArray:
    """Where the time of one frame went: a value in ms for each of `STAGES`, "nan" if unknown.

    The status message says whether the stamp can be trusted; the header is the image's, so the
    timing can be joined with the outputs.
    """
    values = [KeyValue(key=stage, value=f"{getattr(times, stage):.3f}") for stage in STAGES]
    status = DiagnosticStatus(name=camera, hardware_id=engine, message=clock, values=values)
    return DiagnosticArray(header=header, status=[status])


def rejection_message(header: Header, camera: str, reason: str) -> DiagnosticArray:
    """In place of its timing: why an image was not processed; the header is the image's."""
    status = DiagnosticStatus(name=camera, level=DiagnosticStatus.WARN, message=reason)
    return DiagnosticArray(header=header, status=[status])


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

"""A video or an image folder as a rosbag2 with one camera and its labels."""

from collections.abc import Callable
from pathlib import Path

from mtc_perception.core.letterbox import to_rgb
from mtc_perception.replay.recordings.frames import EncodedPixels, FrameSource
from mtc_perception.replay.recordings.notes import Notes
from mtc_perception.replay.recordings.writer import START_NS, new_bag
from mtc_perception.replay.report.pictures import jpeg
from mtc_perception.util.errors import UserError

IMAGE_TOPIC = "/camera/image_raw/compressed"
FRAME_ID = "camera"
_JPEG_QUALITY = 95


def write_recording(source: FrameSource, out: Path, on_frame: Callable[[int], None]) -> Notes:
    """Write the bag `out`: JPEG and PNG files as they are, frames of a video as JPEG.

    It begins at START_NS. `on_frame` is told the number of images so far. Returns what is wrong
    with the recording; raises UserError where `out` exists or `source` is a bag already, and
    SourceError where nothing can be read.
    """
    if out.exists():
        raise UserError(f"{out} exists: choose another folder")
    if source.info.kind == "bag":
        raise UserError(f"{source.info.name} is a bag already")
    notes = Notes()
    with new_bag(out, {"recording": source.info.name}) as writer:
        for number, (frame, truth) in enumerate(source.labelled_frames(notes), start=1):
            stamp_ns = START_NS + frame.stamp_ns
            pixels = frame.pixels
            if not isinstance(pixels, EncodedPixels):
                pixels = EncodedPixels("jpeg", jpeg(to_rgb(pixels.decode()), _JPEG_QUALITY))
            writer.image(IMAGE_TOPIC, stamp_ns, FRAME_ID, pixels)
            if truth is not None:
                writer.truth(stamp_ns, FRAME_ID, truth)
            on_frame(number)
    return notes

"""A recording's images with what was seen in them, as a rosbag2 that Foxglove and RViz show."""

from pathlib import Path

from mtc_perception.core.letterbox import to_rgb
from mtc_perception.pages.pictures import jpeg
from mtc_perception.replay.recordings.recording import EncodedPixels
from mtc_perception.replay.recordings.writer import BagWriter
from mtc_perception.replay.records.image_figures import image_figures
from mtc_perception.replay.records.record import FrameRecord
from mtc_perception.replay.stream.gallery import draw_record
from mtc_perception.replay.stream.lockstep import ReplayedImage

# As of a node in the namespace `perception` with one camera; config/annotated_bag.* shows them.
OVERLAY_TOPIC = "/perception/overlay/compressed"
FOUND_TOPIC = "/perception/detections"
FOUND_DRIVABLE_TOPIC = "/perception/drivable_mask"
FOUND_LANE_TOPIC = "/perception/lane_mask"
TIMING_TOPIC = "/perception/timing"
FIGURES_TOPIC = "/evaluation/figures"
ANNOTATED = "annotated"
"""Its folder in a stream's."""


class AnnotatedBag:
    """A sink that writes the outputs under the images' own stamps, and the labels beside them.

    An image without an answer has a grey overlay and no other output.
    """

    def __init__(self, folder: Path, recording: str) -> None:
        """`folder` must not exist."""
        self._writer = BagWriter(folder, {"recording": recording})

    def add(self, record: FrameRecord, replayed: ReplayedImage) -> None:
        perception = replayed.perception
        frame, truth = replayed.labelled
        where = record.stamp_ns, frame.frame_id
        if replayed.image is not None:
            picture = draw_record(to_rgb(replayed.image), record, perception)
            self._writer.image(OVERLAY_TOPIC, *where, EncodedPixels("jpeg", jpeg(picture)))
        if perception is not None:
            scores = record.scores.tolist()
            ids = [""] * len(scores)
            self._writer.detections(FOUND_TOPIC, *where, record.boxes, scores, record.labels, ids)
            self._writer.mask(FOUND_DRIVABLE_TOPIC, *where, perception.drivable)
            self._writer.mask(FOUND_LANE_TOPIC, *where, perception.lane)
            times = {
                "preprocess": perception.times.preprocess_ms,
                "inference": perception.times.inference_ms,
                "decode": perception.times.decode_ms,
            }
            self._writer.values(TIMING_TOPIC, *where, "camera", times)
        if truth is not None:
            self._writer.truth(*where, truth)
        if found := image_figures(record):
            self._writer.values(FIGURES_TOPIC, *where, "image", found)

    def close(self, complete: bool) -> None:
        self._writer.close()

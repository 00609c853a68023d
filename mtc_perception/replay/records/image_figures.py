"""What pages and bags show of single images."""

from mtc_perception.replay.records.figures import figures, ratio
from mtc_perception.replay.records.record import FrameRecord

FIGURE_WORDS = {
    "detection": "vehicles, F1",
    "drivable": "drivable area, mIoU",
    "lane": "lane lines, IoU",
    "steady_detection": "vehicles of the image before, found again",
    "steady_drivable": "drivable area, IoU with the image before",
    "steady_lane": "lane lines, IoU with the image before",
}
"""In the order they are shown."""


def image_figures(record: FrameRecord) -> dict[str, float]:
    """The figures of an image that are known, 0..1: by `FIGURE_WORDS`.

    Without labels and without a reference, how steady its answer is against the one before.
    """
    known = {name: value for name, value in figures(record).items() if value is not None}
    change = record.stability
    if known or change is None:
        return known
    steady = {
        "steady_detection": ratio(change.matched, change.boxes_before),
        "steady_drivable": ratio(*change.drivable),
        "steady_lane": ratio(*change.lane),
    }
    return {name: value for name, value in steady.items() if value is not None}

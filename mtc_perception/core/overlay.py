"""Draws a `Perception` or labels onto their image, for people to look at."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mtc_perception.core.class_map import VEHICLE_CLASSES, ClassMap
from mtc_perception.core.perception import Perception
from mtc_perception.core.truth import GroundTruth

Color = tuple[int, int, int]

# Okabe and Ito's palette: told apart with every kind of colour vision.
DRIVABLE_COLOR: Color = (0, 158, 115)
LANE_COLOR: Color = (213, 94, 0)
CLASS_COLORS: tuple[Color, ...] = (
    *((86, 180, 233), (240, 228, 66), (204, 121, 167), (230, 159, 0)),
    # Paul Tol's light palette: further classes, paler than those.
    *((170, 170, 0), (153, 221, 255), (255, 170, 187), (187, 204, 51), (119, 170, 221)),
)
"""Of classes by index; what is more than there are colours begins again."""
IGNORED_COLOR: Color = (221, 221, 221)
_OUTLINE_COLOR: Color = (0, 0, 0)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def _blending(color: Color, opacity: float) -> npt.NDArray[np.uint8]:
    """Table [1, 256, 3] from each byte to its blend with `color`: several times faster than
    filling a whole picture with the colour first."""
    table = np.arange(256)[:, None] * (1.0 - opacity) + np.array(color) * opacity
    return np.rint(table).astype(np.uint8)[None]


_DRIVABLE_TINT = _blending(DRIVABLE_COLOR, 0.4)
_LANE_TINT = _blending(LANE_COLOR, 0.9)


def draw_overlay(
    image_rgb: npt.NDArray[np.uint8],
    perception: Perception,
    class_names: Sequence[str] | Mapping[int, str],
) -> npt.NDArray[np.uint8]:
    """A new uint8 `[H, W, 3]` RGB picture: drivable area tinted, lanes coloured, boxes labelled.

    `image_rgb` is the uint8 `[H, W, 3]` image that `perception` came from.
    """
    picture = image_rgb.copy()
    for mask, table in ((perception.drivable, _DRIVABLE_TINT), (perception.lane, _LANE_TINT)):
        if mask is not None:
            _tint(picture, mask, table)
    # Unsure boxes first, so that sure ones are drawn over them.
    for index in reversed(range(len(perception.boxes))):
        label = int(perception.labels[index])
        _draw_box(
            picture,
            perception.boxes[index],
            f"{class_names[label]} {perception.scores[index]:.0%}",
            class_color(label),
        )
    return picture


def color_key(class_names: Sequence[str]) -> dict[str, str]:
    """What the colours in pictures stand for: CSS colours, by name."""
    colors = {"drivable area": DRIVABLE_COLOR, "lane lines": LANE_COLOR}
    colors |= {name: class_color(label) for label, name in enumerate(class_names)}
    colors["ignore regions"] = IGNORED_COLOR
    return {name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in colors.items()}


def class_color(label: int) -> Color:
    """RGB of a class by its index."""
    return CLASS_COLORS[label % len(CLASS_COLORS)]


def draw_truth(
    image_rgb: npt.NDArray[np.uint8], truth: GroundTruth, classes: ClassMap = VEHICLE_CLASSES
) -> npt.NDArray[np.uint8]:
    """A new uint8 `[H, W, 3]` RGB picture: the labels of `image_rgb`, drawn as answers are.

    Labels have no scores, so that of a single class only ignore regions have a text.
    """
    picture = image_rgb.copy()
    for mask, table in ((truth.drivable, _DRIVABLE_TINT), (truth.lane, _LANE_TINT)):
        if mask is not None:
            _tint(picture, mask.view(np.uint8), table)
    if truth.boxes is None:
        return picture
    found, names = classes.objects(truth), classes.names
    for index in reversed(range(len(found.boxes))):
        label = int(found.labels[index])
        text, color = names[label] if len(names) > 1 else "", class_color(label)
        if found.ignore[index]:
            text, color = "ignored", IGNORED_COLOR
        _draw_box(picture, found.boxes[index], text, color)
    return picture


def _tint(
    picture: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], table: npt.NDArray[np.uint8]
) -> None:
    x, y, width, height = cv2.boundingRect(mask)
    if width == 0:
        return
    area = picture[y : y + height, x : x + width]
    cv2.copyTo(cv2.LUT(area, table), mask[y : y + height, x : x + width], area)


def _draw_box(
    picture: npt.NDArray[np.uint8], box: npt.NDArray[np.floating], text: str, color: Color
) -> None:
    height, width = picture.shape[:2]
    line = max(round(height / 360), 1)
    x1, y1, x2, y2 = (round(float(edge)) for edge in box)
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    corners = (x1, y1), (max(x2 - 1, x1), max(y2 - 1, y1))
    if line > 1:  # in small pictures the outline would hide the colour
        cv2.rectangle(picture, *corners, _OUTLINE_COLOR, line + 2)
    cv2.rectangle(picture, *corners, color, line)
    if not text:
        return

    scale = max(height / 1440, 0.35)
    (text_width, text_height), baseline = cv2.getTextSize(text, _FONT, scale, line)
    left = max(min(x1, width - text_width), 0)
    # Above the box, or just inside it where there is no room above.
    bottom = y1 if y1 >= text_height + baseline else y1 + text_height + baseline
    top_left = (left, bottom - text_height - baseline)
    cv2.rectangle(picture, top_left, (left + text_width, bottom), color, cv2.FILLED)
    origin = (left, bottom - baseline // 2 - 1)
    cv2.putText(picture, text, origin, _FONT, scale, _OUTLINE_COLOR, line, cv2.LINE_AA)

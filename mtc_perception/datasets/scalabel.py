"""Labels of BDD100K in Scalabel's format, and in the older per-image one YOLOP uses.

Formats: https://doc.bdd100k.com/format.html and https://doc.scalabel.ai/format.html.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mtc_perception.datasets.sample import Boxes, BoxRow, LayoutError
from mtc_perception.datasets.split_files import number

LANE_TYPES = frozenset(
    f"{number} {colour}"
    for number in ("single", "double")
    for colour in ("white", "yellow", "other")
) | {"crosswalk"}
"""Lane categories that are paint; BDD100K's ninth, the road curb, is none."""
AREA_TYPES = frozenset(("direct", "drivable", "alternative"))

_T = np.linspace(0, 1, 9)[1:, None]
_BEZIER = np.concatenate(
    ((1 - _T) ** 3, 3 * (1 - _T) ** 2 * _T, 3 * (1 - _T) * _T**2, _T**3), axis=1
)
"""[8, 4] weights of a cubic curve's four points in eight points along it."""

Points = npt.NDArray[np.float32]


@dataclass(slots=True)
class FrameLabels:
    """Labels of one image in image pixels (pixel edges)."""

    boxes: Boxes
    lanes: list[Points] = field(default_factory=list)
    areas: list[Points] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    unusable: list[str] = field(default_factory=list)
    """Boxes left out because they have no size."""


def frames_of(content: Any) -> Sequence[Any]:
    """The frames of a Scalabel file, which is a list or an object with one. Raises LayoutError."""
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list):
        raise LayoutError("no list of frames")
    return frames


def parse_frame(entry: dict[str, Any]) -> FrameLabels:
    """One frame. Raises KeyError, IndexError, TypeError, ValueError or AttributeError, which names
    the label, if it is malformed.

    Takes a Scalabel frame (`labels`), and the 2018 release's file of one image
    (`frames[0].objects`).
    """
    scalabel = "name" in entry and "frames" not in entry
    labels = (entry.get("labels") or []) if scalabel else entry["frames"][0]["objects"]
    frame = FrameLabels(Boxes.of(()))
    rows: list[BoxRow] = []
    for index, label in enumerate(labels):
        try:
            _add(label, rows, frame)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise type(error)(f"label {index}: {error}") from None
    frame.boxes = Boxes.of(rows)
    found = entry.get("attributes") or {}
    frame.attributes = {key: value for key, value in found.items() if isinstance(value, str)}
    return frame


def _add(label: dict[str, Any], rows: list[BoxRow], frame: FrameLabels) -> None:
    """Add one label: a box to `rows`, everything else to `frame`. Raises as `parse_frame`."""
    # 2018: `lane/single white` and `area/drivable`; later a plain category.
    group, _, name = label["category"].rpartition("/")
    attributes = label.get("attributes") or {}
    if label.get("box2d"):
        ignore = any(attributes.get(key) for key in ("crowd", "ignored"))
        x1, y1, x2, y2 = _corners(label["box2d"])
        if x1 < x2 and y1 < y2:
            rows.append(((x1, y1, x2, y2), ignore, name))
        else:
            frame.unusable.append(f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) without a size")
    elif label.get("poly2d"):
        if name == "lane":
            group, name = "lane", attributes.get("laneTypes", "single white")
        elif name == "drivable area":
            group, name = "area", attributes.get("areaType", "direct")
        if name in LANE_TYPES and group in ("", "lane"):
            frame.lanes += list(_polylines(label["poly2d"]))
        elif name in AREA_TYPES and group in ("", "area"):
            frame.areas += list(_polylines(label["poly2d"]))


def _corners(box: dict[str, Any]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (number(box[key]) for key in ("x1", "y1", "x2", "y2"))
    return x1, y1, x2, y2


def _polylines(poly2d: list[Any]) -> Iterator[Points]:
    """Each polygon or line of a label, its Bezier curves made of short straight pieces."""
    if isinstance(poly2d[0], dict):  # Scalabel
        for poly in poly2d:
            yield _flatten(poly["vertices"], poly.get("types") or "")
    else:  # 2018: [[x, y, "L"], ...]
        yield _flatten([point[:2] for point in poly2d], "".join(point[2] for point in poly2d))


def _flatten(vertices: Sequence[Any], types: str) -> Points:
    """Straight pieces of a path; each `CCC` in it is a curve's two control points and its end."""
    if any(len(vertex) != 2 for vertex in vertices):
        raise ValueError("a vertex that is not x, y")
    points = np.array([list(map(number, vertex)) for vertex in vertices], np.float32)
    points = points.reshape(-1, 2)  # where there is none, too
    if "CCC" not in types:
        return points
    pieces: list[npt.NDArray[Any]] = [points[:1]]
    index = 1
    while index < len(points):
        if types[index : index + 3] == "CCC":
            pieces.append(_BEZIER @ points[index - 1 : index + 3])
            index += 3
        else:
            pieces.append(points[index : index + 1])
            index += 1
    return np.concatenate(pieces).astype(np.float32)

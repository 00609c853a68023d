import numpy as np
import numpy.typing as npt
import pytest

from mtc_perception.core.overlay import (
    CLASS_COLORS,
    DRIVABLE_COLOR,
    IGNORED_COLOR,
    LANE_COLOR,
    color_key,
    draw_overlay,
    draw_truth,
)
from mtc_perception.core.perception import Perception, StageTimes
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.core.truth import GroundTruth

CLASSES = ["vehicle", "truck"]


def perception(
    height: int,
    width: int,
    boxes: list[list[float]] | None = None,
    drivable: npt.NDArray[np.uint8] | None = None,
    lane: npt.NDArray[np.uint8] | None = None,
    labels: list[int] | None = None,
) -> Perception:
    nothing = np.zeros((height, width), np.uint8)
    count = len(boxes or [])
    return Perception(
        size=(height, width),
        boxes=np.array(boxes or np.zeros((0, 4)), np.float32),
        scores=np.linspace(0.9, 0.4, count, dtype=np.float32),
        labels=np.array(labels or [0] * count, np.int32),
        drivable=nothing if drivable is None else drivable,
        lane=nothing if lane is None else lane,
        times=StageTimes(0.0, 0.0, 0.0),
    )


@pytest.mark.parametrize("size", [(720, 1280), (1, 1), (17, 31)])
def test_nothing_seen_is_the_image_itself(size: tuple[int, int]) -> None:
    image = self_test_frame(*size)
    picture = draw_overlay(image, perception(*size), CLASSES)
    np.testing.assert_array_equal(picture, image)
    assert not np.shares_memory(picture, image)


def test_masks_colour_their_pixels_only() -> None:
    image = self_test_frame(360, 640)
    kept = image.copy()
    drivable, lane = np.zeros((2, 360, 640), np.uint8)
    drivable[200:300, 100:500] = 255
    drivable[250, 300] = 0  # a hole
    lane[200:300, 300:310] = 255
    picture = draw_overlay(image, perception(360, 640, drivable=drivable, lane=lane), CLASSES)
    np.testing.assert_array_equal(image, kept)
    untouched = (drivable == 0) & (lane == 0)
    np.testing.assert_array_equal(picture[untouched], image[untouched])

    def distance(region: npt.NDArray[np.bool_], color: tuple[int, int, int]) -> float:
        return float(np.abs(picture[region].astype(float) - color).mean())

    area = (drivable > 0) & (lane == 0)
    before = float(np.abs(image[area].astype(float) - DRIVABLE_COLOR).mean())
    assert distance(area, DRIVABLE_COLOR) < 0.7 * before
    assert distance(lane > 0, LANE_COLOR) < 20


def test_boxes_are_drawn_in_their_class_colour_where_they_are() -> None:
    image = np.full((360, 640, 3), 90, np.uint8)
    found = perception(360, 640, boxes=[[100, 100, 200, 180], [400, 50, 500, 150]], labels=[0, 1])
    picture = draw_overlay(image, found, CLASSES)
    for index, (x1, y1, x2, y2) in enumerate([(100, 100, 200, 180), (400, 50, 500, 150)]):
        for y, x in ((y2 - 1, x1 + 50), (y1 + 50, x1), (y1 + 50, x2 - 1)):
            assert tuple(picture[y, x]) == CLASS_COLORS[index]
        assert (picture[y1 + 5 : y2 - 5, x1 + 5 : x2 - 5] == 90).all()
        label = picture[y1 - 12 : y1, x1 : x1 + 40].reshape(-1, 3)
        assert (label == CLASS_COLORS[index]).all(axis=1).mean() > 0.3
        assert (label.sum(axis=1) < 60).any()  # text
    assert (picture[200:, :] == 90).all()
    key = color_key(CLASSES)
    assert list(key) == ["drivable area", "lane lines", *CLASSES, "ignore regions"]
    assert [key[name] for name in CLASSES] == ["#56b4e9", "#f0e442"]


@pytest.mark.parametrize(
    "shares", [[0, 0, 1, 1], [0.9, 0, 1, 0.1], [0, 0.9, 0.1, 1], [0, 0, 0.001, 0.001]]
)
@pytest.mark.parametrize("size", [(360, 640), (20, 20), (1, 1)])
def test_boxes_at_the_edges(shares: list[float], size: tuple[int, int]) -> None:
    box = [share * length for share, length in zip(shares, [size[1], size[0]] * 2, strict=True)]
    image = np.full((*size, 3), 90, np.uint8)
    picture = draw_overlay(image, perception(*size, boxes=[box]), CLASSES)
    assert picture.shape == image.shape
    assert (picture != image).any()


def test_the_surest_box_is_on_top() -> None:
    image = np.zeros((360, 640, 3), np.uint8)
    same = [100.0, 100.0, 300.0, 300.0]
    picture = draw_overlay(image, perception(360, 640, boxes=[same, same], labels=[1, 0]), CLASSES)
    assert tuple(picture[200, 100]) == CLASS_COLORS[1]


def test_labels_are_drawn_without_text_but_for_ignore_regions() -> None:
    rgb = np.full((60, 80, 3), 100, np.uint8)
    boxes = np.array([[10, 30, 30, 50]], np.float32)
    ignored = draw_truth(rgb, GroundTruth(boxes=boxes, ignore=np.array([True])))
    labelled = draw_truth(rgb, GroundTruth(boxes=boxes))
    assert tuple(labelled[40, 10]) == CLASS_COLORS[0]
    assert (labelled[:28] == rgb[:28]).all()
    assert tuple(ignored[40, 10]) == IGNORED_COLOR
    assert (ignored[:28] != rgb[:28]).any()


def test_label_masks_are_drawn_as_those_of_an_answer() -> None:
    image = np.full((36, 64, 3), 90, np.uint8)
    drivable, lane = np.zeros((2, 36, 64), np.bool_)
    drivable[20:], lane[:, 30:33] = True, True
    as_answer = perception(
        36, 64, drivable=drivable.astype(np.uint8) * 255, lane=lane.astype(np.uint8) * 255
    )
    labels = GroundTruth(drivable=drivable, lane=lane)
    np.testing.assert_array_equal(
        draw_truth(image, labels), draw_overlay(image, as_answer, CLASSES)
    )
    assert (draw_truth(image, GroundTruth()) == image).all()

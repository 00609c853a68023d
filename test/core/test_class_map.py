"""Which categories of labels detection classes take: many to one, ignored, background, errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mtc_perception.core.class_map import EVERY_CLASS, VEHICLE_CLASSES, ClassMap
from mtc_perception.core.truth import GroundTruth
from mtc_perception.util.errors import UserError

ROAD_USERS = ClassMap(
    classes={"car": ("van",), "person": ("Pedestrian", "child")},
    ignore=("trailer",),
    background=("traffic sign",),
)


def test_categories_are_taken_whatever_their_spelling() -> None:
    assert ROAD_USERS.names == ["car", "person"]
    assert ROAD_USERS.index("Car") == 0, "its own name"
    assert [ROAD_USERS.index(name) for name in ("van", "PEDESTRIAN", "child")] == [0, 1, 1]
    assert ROAD_USERS.index("trailer") == EVERY_CLASS
    assert ROAD_USERS.index("Traffic_Sign") is None
    assert ROAD_USERS.knows("traffic-sign")
    assert not ROAD_USERS.knows("dog")


def test_objects_are_those_that_are_no_background() -> None:
    boxes = np.arange(20, dtype=np.float32).reshape(5, 4)
    truth = GroundTruth(
        boxes,
        np.array([False, True, False, False, False]),
        categories=("child", "van", "trailer", "Traffic sign", "car"),
    )
    found = ROAD_USERS.objects(truth)
    np.testing.assert_array_equal(found.boxes, boxes[[0, 1, 2, 4]])
    assert found.labels.tolist() == [1, 0, EVERY_CLASS, 0]
    assert found.ignore.tolist() == [False, True, True, False]
    unnamed = ROAD_USERS.objects(GroundTruth(boxes))
    assert unnamed.labels.tolist() == [0] * 5, "labels of one class have no names"


def test_vehicles_are_every_kind_and_all_else_is_background() -> None:
    taken = ("Car", "truck_bus", "SUVPickupTruck", "on rails", "vehicle", "Vehicles")
    assert {VEHICLE_CLASSES.index(name) for name in taken} == {0}
    assert VEHICLE_CLASSES.index("other vehicle") == EVERY_CLASS
    assert VEHICLE_CLASSES.index("person") is None
    VEHICLE_CLASSES.require(["car", "person"], "roads")
    apart = ClassMap.of(["vehicle", "truck", "person"])
    assert [apart.index(name) for name in ("car", "truck", "person")] == [0, 1, 2]
    assert not apart.knows("dog"), "of several classes nothing is silently left out"


def test_labels_that_no_class_takes_are_told_with_the_classes() -> None:
    with pytest.raises(UserError) as told:
        ROAD_USERS.require(["car", "dog", "bicycle"], "data/roads")
    assert "labels of data/roads are of bicycle, dog, which no class takes" in str(told.value)
    assert "the classes are car (van), person (Pedestrian, child)" in str(told.value)
    with pytest.raises(UserError, match="are of person, which no class takes"):
        VEHICLE_CLASSES.require(["person"], "roads")
    ROAD_USERS.require([], "roads without a box")
    ClassMap.of([]).require(["car"], "roads, to a network that detects nothing")


def test_what_becomes_of_categories_is_told() -> None:
    told = ROAD_USERS.takers(["van", "car", "child", "trailer", "car"])
    assert told == "car: car, van; person: child; ignored: trailer"
    assert VEHICLE_CLASSES.takers(["car", "pedestrian"]) == "vehicle: car; background: pedestrian"


def test_a_class_without_labels_is_told_with_the_labels() -> None:
    with pytest.raises(UserError, match="no label is of class person; the labels are of car, van"):
        ROAD_USERS.require_all(["van", "car"])
    ROAD_USERS.require_all(["van", "child"])
    ROAD_USERS.require_all([])


@pytest.mark.parametrize(
    "content",
    [
        {"classes": {"car": ("van",), "large": ("Van",)}},
        {"classes": {"car": ("van",)}, "ignore": ("VAN",)},
        {"classes": {"car": ()}, "background": ("car",)},
        {"classes": {"car": ("truck",), "truck": ()}},
    ],
)
def test_a_category_has_one_meaning(content: dict) -> None:
    with pytest.raises(ValidationError, match="said twice what becomes of category"):
        ClassMap(**content)


NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


@given(NAMES, st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_every_category_goes_where_it_was_said(names: list[str], places: list[int]) -> None:
    """Two classes, ignore and background, and the way through JSON."""
    said = dict(zip(names, places, strict=False))
    taken = [tuple(name for name, place in said.items() if place == k) for k in range(4)]
    classes = ClassMap(
        classes={"one": taken[0], "two": taken[1]}, ignore=taken[2], background=taken[3]
    )
    again = ClassMap.model_validate_json(classes.model_dump_json())
    assert again == classes
    for name, place in said.items():
        assert again.index(name) == (0, 1, EVERY_CLASS, None)[place]
        assert again.knows(name)

"""Pieces of vehicles among boxes made from masks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from offline_compress.data.fragments import LARGER, fragments

CAR = (100, 100, 180, 150)


def found(*boxes: tuple[float, float, float, float]) -> list[bool]:
    return fragments(np.array(boxes, np.float32).reshape(-1, 4), 256, 512).tolist()


def test_a_small_box_at_a_large_one_is_a_piece_of_it() -> None:
    assert found(CAR, (181, 120, 186, 130)) == [False, True]
    assert found(CAR, (120, 120, 126, 130)) == [False, True], "inside of it"


def test_a_small_box_elsewhere_is_a_far_vehicle() -> None:
    assert found(CAR, (192, 120, 197, 130)) == [False, False]
    assert found((181, 120, 186, 130)) == [False]


def test_neighbours_of_one_size_are_vehicles() -> None:
    assert found((10, 10, 20, 18), (21, 10, 32, 18), (33, 10, 42, 18)) == [False] * 3


def test_a_car_at_a_bus_is_none() -> None:
    assert found((100, 50, 250, 150), (252, 100, 300, 140)) == [False, False]


def test_no_boxes() -> None:
    assert found() == []


@given(st.lists(st.tuples(*[st.integers(0, 200)] * 2, *[st.integers(1, 60)] * 2), max_size=8))
def test_the_largest_box_is_never_a_piece(rows: list[tuple[int, int, int, int]]) -> None:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in rows], np.float32).reshape(-1, 4)
    which = fragments(boxes, 256, 512)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for piece, area in zip(which, areas, strict=True):
        assert not piece or areas.max() >= LARGER * area

"""Masks at one bit per pixel: the same pixels, and as many."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mtc_perception.core.packed_mask import PackedMask

SIZES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)


@given(hnp.arrays(np.bool_, SIZES))
def test_a_packed_mask_comes_back(mask: np.ndarray) -> None:
    full = mask.astype(np.uint8) * 255
    np.testing.assert_array_equal(PackedMask.pack(full).unpack(), full)


@given(SIZES, st.data())
def test_counts_are_those_of_the_pixels(size: tuple[int, ...], data: st.DataObject) -> None:
    one, other = (data.draw(hnp.arrays(np.bool_, size)) for _ in range(2))
    packed, against = PackedMask.pack(one), PackedMask.pack(other)
    assert packed.shape == size
    assert packed.count() == one.sum()
    assert packed.count_differing(against) == (one != other).sum()


def test_nothing_has_no_pixels() -> None:
    assert PackedMask.pack(np.zeros((0, 0), np.uint8)).count() == 0

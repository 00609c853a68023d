"""Verdicts: what an interval allows to say against a margin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc_perception.metrics.bootstrap import Difference
from mtc_perception.metrics.equivalence import MARGINS_POINTS, verdict
from mtc_perception.metrics.figures import ACCURACY, HEADLINES


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-0.009, 0.009, "equivalent"),
        (-0.009, -0.001, "equivalent"),  # worse for sure, by less than matters
        (-0.03, -0.002, "lost"),
        (0.002, 0.03, "gained"),
        (-0.011, 0.001, "unclear"),
        (None, None, "too few images"),
    ],
)
def test_verdicts_against_a_margin_of_one_point(
    low: float | None, high: float | None, words: str
) -> None:
    assert verdict(Difference(0.0, low, high), 1.0) == words


@given(st.floats(-0.1, 0.1), st.floats(0, 0.1), st.floats(0.01, 5))
def test_swapped_networks_swap_lost_and_gained(low: float, width: float, margin: float) -> None:
    swapped = {"lost": "gained", "gained": "lost"}
    found = verdict(Difference(0.0, low, low + width), margin)
    other = verdict(Difference(0.0, -low - width, -low), margin)
    assert other == swapped.get(found, found)


def test_every_headline_has_a_margin() -> None:
    assert {figure.name for figure in HEADLINES} <= MARGINS_POINTS.keys() <= ACCURACY.keys()

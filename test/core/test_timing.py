import math

import numpy as np
import pytest

from mtc_perception.core.timing import percentiles


def test_percentiles_are_those_of_numpy():
    values = np.random.default_rng(0).gamma(2, 5, 1000)
    result = percentiles(values)
    assert result["p99"] == pytest.approx(np.quantile(values, 0.99))
    assert result["p50"] == pytest.approx(np.median(values))
    assert result["max"] == values.max()
    assert result["count"] == 1000


def test_percentiles_leave_out_what_is_not_known():
    assert percentiles([1.0, math.nan, 3.0])["mean"] == 2.0
    assert percentiles([1.0, math.nan, 3.0])["count"] == 2


@pytest.mark.parametrize("nothing", [[], [math.nan]])
def test_percentiles_of_nothing_are_absent_rather_than_zero(nothing):
    assert percentiles(nothing) == {"count": 0}

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from mtc_perception.core.timing import STAGES, FrameTimes, StageClock, TimingWindow, percentiles

TIMES = FrameTimes(*range(1, 8))


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


def test_window_keeps_the_last_frames_only():
    window = TimingWindow(capacity=3)
    assert window.summary()["end_to_end"] == {"count": 0}
    for value in (100.0, 1.0, 2.0, 3.0):
        window.add(replace(TIMES, end_to_end=value))
    summary = window.summary()
    assert tuple(summary) == STAGES
    assert summary["end_to_end"]["max"] == 3.0
    assert summary["receive"]["p50"] == TIMES.receive


def test_stage_clock_measures_laps():
    begin = time.perf_counter()
    clock = StageClock()
    time.sleep(0.02)
    first = clock.lap_ms()
    second = clock.lap_ms()
    total = (time.perf_counter() - begin) * 1e3
    assert first >= 20
    assert 0 <= second <= total - 20
    assert first + second <= total

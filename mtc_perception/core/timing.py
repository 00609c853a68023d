"""Stage clocks and latency percentiles, all in milliseconds."""

import threading
import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

import numpy as np
import numpy.typing as npt


def percentiles(values_ms: Iterable[float]) -> dict[str, float]:
    """p50, p95, p99, max, mean and count of the finite values; only `count` when there are none."""
    values = np.asarray(list(values_ms), dtype=np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return {"count": 0}
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {
        "p50": float(p50),
        "p95": float(p95),
        "p99": float(p99),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "count": int(values.size),
    }


class StageClock:
    """Laps of the monotonic clock."""

    def __init__(self) -> None:
        self._last_ns = time.perf_counter_ns()

    def lap_ms(self) -> float:
        """Milliseconds since the previous lap, or since the clock was made."""
        now_ns = time.perf_counter_ns()
        elapsed_ms = (now_ns - self._last_ns) / 1e6
        self._last_ns = now_ns
        return elapsed_ms


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """Where the time of one frame went. NaN where the clocks do not allow to say."""

    receive: float
    """Image stamp to subscription callback: camera, driver and transport."""
    wait: float
    """In the slot until the inference thread took it."""
    preprocess: float
    """Reading or decompressing the message, and the letterbox."""
    inference: float
    decode: float
    publish: float
    """Detections and both masks."""
    end_to_end: float
    """Image stamp to the last of these published."""


STAGES: tuple[str, ...] = tuple(field.name for field in fields(FrameTimes))


class TimingWindow:
    """The last `capacity` frames' times; one thread adds, any thread summarises."""

    def __init__(self, capacity: int = 300) -> None:
        self._rows: npt.NDArray[np.float64] = np.full((capacity, len(STAGES)), np.nan)
        self._added = 0
        self._lock = threading.Lock()

    def add(self, times: FrameTimes) -> None:
        with self._lock:
            self._rows[self._added % len(self._rows)] = astuple(times)
            self._added += 1

    def summary(self) -> dict[str, dict[str, float]]:
        """Percentiles per stage, by the names in `STAGES`."""
        with self._lock:
            rows = self._rows[: self._added].copy()
        return {stage: percentiles(rows[:, column]) for column, stage in enumerate(STAGES)}

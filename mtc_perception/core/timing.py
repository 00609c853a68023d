"""Percentiles of durations, in milliseconds."""

from collections.abc import Iterable

import numpy as np


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

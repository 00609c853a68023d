"""How long one image takes, measured by itself."""

import time
from typing import Any

from mtc_perception.core.engine import Engine
from mtc_perception.core.timing import percentiles
from mtc_perception.util.progress import Count

WARM_UP_RUNS = 5
RUNS = 100
LIMIT_S = 10.0
"""A slow network is timed no longer than this, but `FEWEST_RUNS` times."""
FEWEST_RUNS = 10


def measure_speed(engine: Engine, count: Count) -> dict[str, Any]:
    """Latency at batch 1 of what lies in the engine's input, one run after the other.

    Timed is the engine alone: uint8 image in, boxes and masks out, transfers to and from a GPU
    included; neither decoding of files nor letterbox nor scoring. `count` is told runs done and
    runs expected. Raises EngineError if the engine fails.
    """
    times_ms: list[float] = []
    runs = WARM_UP_RUNS + RUNS
    begin = time.perf_counter()
    for run in range(runs):
        if run >= WARM_UP_RUNS + FEWEST_RUNS and time.perf_counter() - begin > LIMIT_S:
            break
        start = time.perf_counter()
        engine.start()
        engine.wait()
        times_ms.append((time.perf_counter() - start) * 1e3)
        count(run + 1, runs)
    count(len(times_ms), len(times_ms))
    timed = percentiles(times_ms[WARM_UP_RUNS:])
    return {
        "batch": 1,
        "warm_up_runs": WARM_UP_RUNS,
        "runs": timed["count"],
        "latency_ms": {name: round(timed[name], 3) for name in ("p50", "p95", "mean")},
        "fps": round(1e3 / timed["mean"], 2),
    }

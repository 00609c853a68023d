"""Latency of several networks, measured in turn so that all of them see the same machine."""

import os
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from mtc_perception.core.engine import Engine, Network
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.core.timing import percentiles
from mtc_perception.engines.load import load_engine
from mtc_perception.util.progress import Count

THREADS = min(2, len(os.sched_getaffinity(0)))
LOADS, BLOCKS, RUNS_PER_BLOCK = 3, 9, 8
"""An engine can be slow for as long as it is loaded (by where its memory lies), so that each
network is loaded `LOADS` times, for `BLOCKS` blocks each time."""
LIMIT_S = 90.0
"""Slow networks are measured no longer than this, but in `FEWEST_BLOCKS` of every load."""
FEWEST_BLOCKS = 2

Key = tuple[str, str]
"""Network and engine."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Times of one inference in ms, by block: `[blocks][runs]` for every network on its engine."""

    blocks_ms: dict[Key, list[list[float]]]

    def summary(self, key: Key) -> dict[str, float]:
        """Median and 95th percentile in ms, and how many runs they are of."""
        found = percentiles(one for block in self.blocks_ms[key] for one in block)
        return {
            "p50": round(found["p50"], 3),
            "p95": round(found["p95"], 3),
            "runs": found["count"],
        }

    def ratio(self, own: Key, other: Key) -> float:
        """Time of `own` over that of `other`.

        The median over blocks of the ratio of their medians: both met the same state of the machine
        there.
        """
        pairs = zip(self.blocks_ms[own], self.blocks_ms[other], strict=True)
        ratios = [statistics.median(a) / statistics.median(b) for a, b in pairs]
        return round(statistics.median(ratios), 4)


def conditions() -> dict[str, Any]:
    """How `interleaved` measures, to stand beside its numbers."""
    return {
        "batch": 1,
        "threads": THREADS,
        "interleaved": True,
        "loads": LOADS,
        "runs_per_block": RUNS_PER_BLOCK,
    }


def interleaved(networks: Mapping[Key, Network], count: Count = lambda _d, _t: None) -> Latencies:
    """Measure networks on engines at batch 1, block by block, all in turn in every block.

    Timed is the engine alone: uint8 image in, boxes and masks out. Raises EngineError if an engine
    cannot run its network.
    """
    blocks: dict[Key, list[list[float]]] = {key: [] for key in networks}
    begin = time.monotonic()
    for load in range(LOADS):
        count(load * BLOCKS, LOADS * BLOCKS)
        with ExitStack() as stack:
            engines: dict[Key, Engine] = {}
            for key, network in networks.items():
                engines[key] = load_engine(network, key[1], THREADS)
                stack.callback(engines[key].close)
                engines[key].input[0] = self_test_frame(network.height, network.width)
            for block in range(BLOCKS):
                spent = (time.monotonic() - begin) / LIMIT_S
                if block >= FEWEST_BLOCKS and spent > (load + 1) / LOADS:
                    break
                for key, engine in engines.items():
                    _time_ms(engine)  # the engine before has just had the caches
                    blocks[key].append([_time_ms(engine) for _ in range(RUNS_PER_BLOCK)])
                count(load * BLOCKS + block + 1, LOADS * BLOCKS)
    return Latencies(blocks)


def _time_ms(engine: Engine) -> float:
    begin = time.perf_counter()
    engine.start()
    engine.wait()
    return (time.perf_counter() - begin) * 1e3

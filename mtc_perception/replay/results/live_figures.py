"""Figures that only live runs have: how evenly and how soon answers come."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mtc_perception.core.timing import percentiles


def jitter_ms(times: Iterable[tuple[int, Mapping[str, float]]]) -> Iterator[float]:
    """How much the end-to-end latency of each image differs from that of the one before.

    `times` are (index, latency by stage); pairs with an unanswered image between them are left out.
    """
    before_index, before_ms = -2, 0.0
    for index, latency_ms in times:
        if index == before_index + 1:
            yield abs(latency_ms["end_to_end"] - before_ms)
        before_index, before_ms = index, latency_ms["end_to_end"]


def merge_live(streams: Sequence[Mapping[str, Any]], jitters_ms: Iterable[float]) -> dict[str, Any]:
    """`live` of a whole run: sums of counts, the worst of times, percentiles of every jitter.

    `streams` are the streams' own `live`. A stream without any answer has no time to its first
    one, and then the run has none.
    """
    first_ms = [stream["time_to_first_output_ms"] for stream in streams]
    late_ms = [stream["played_late_ms"].get("max", 0.0) for stream in streams]
    return {
        "rate": streams[0]["rate"],
        "frames_published": sum(stream["frames_published"] for stream in streams),
        "frames_received_by_node": sum(stream["frames_received_by_node"] for stream in streams),
        "ready_s": max(stream["ready_s"] for stream in streams),
        "time_to_first_output_ms": None if None in first_ms else max(first_ms),
        "played_late_ms_max": max(late_ms),
        "jitter_ms": percentiles(jitters_ms),
    }

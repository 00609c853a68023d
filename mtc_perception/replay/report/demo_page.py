"""The HTML page of a demo run: one file with its pictures inside, the video beside it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mtc_perception.pages import render
from mtc_perception.replay.live.result import LiveResult
from mtc_perception.replay.report.charts import latency_timeline, stage_bar
from mtc_perception.replay.report.page_pictures import Gallery, data_uri
from mtc_perception.replay.results.rows import frame_rows, latency_rows, metric_rows

_TEMPLATE = "demo_page.html.j2"
# In the order they happen; together they make up the time from stamp to published.
_STAGES = ("receive", "wait", "preprocess", "inference", "decode", "publish")


def render_page(
    summary: Mapping[str, Any], result: LiveResult, galleries: Sequence[Gallery], video: str
) -> str:
    """The page as HTML; `video` is the name of the video file beside it."""
    first_ns = result.published[0].stamp_ns
    times_s = [(one.stamp_ns - first_ns) / 1e9 for one in result.published]
    latencies_ms = [result.latency_ms(one) for one in result.published]
    stages = [(name, summary["latency_ms"][name].get("p50", 0.0)) for name in _STAGES]
    delivery_ms = summary["latency_ms"]["end_to_end"].get("p50", 0.0) - summary["latency_ms"][
        "published"
    ].get("p50", 0.0)
    return render(
        __package__ or "",
        _TEMPLATE,
        summary=summary,
        frames=frame_rows(summary),
        latencies=latency_rows(summary["latency_ms"]),
        metrics=metric_rows(summary),
        timeline=latency_timeline(times_s, latencies_ms, 1e3 / result.source.rate_hz),
        stages=stage_bar([*stages, ("delivery", max(delivery_ms, 0.0))]),
        lost=sum(map(math.isnan, latencies_ms)),
        galleries=galleries,
        video=video,
        data_uri=data_uri,
    )

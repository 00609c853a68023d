"""Figures of a result in words, for tables on the terminal and on pages."""

from collections.abc import Mapping
from typing import Any

from mtc_perception.metrics.figures import BRIEF, COUNT_LABELS, STAGE_LABELS, figures

_ACCURACY = figures("detection.recall_at_threshold", "detection.precision_at_threshold") + BRIEF


def metric_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value) of every accuracy figure there is."""
    rows = []
    for figure in _ACCURACY:
        if figure.task in result:
            value = figure.of(result)
            rows.append((figure.title, "undefined" if value is None else f"{value:.3f}"))
    return rows


def live_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value) of the figures that only a live run has."""
    live = result.get("live")
    if not live:
        return []
    first_ms = live["time_to_first_output_ms"]
    return [
        ("node ready after", f"{live['ready_s']:.1f} s"),
        ("first output after", "never" if first_ms is None else f"{first_ms:.1f} ms"),
        ("played late, at most", f"{live['played_late_ms_max']:.1f} ms"),
    ]


def times_ms(result: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Percentiles by stage, and of a live run the jitter of the last, `end_to_end`."""
    live = result.get("live")
    return result["latency_ms"] | ({"jitter": live["jitter_ms"]} if live else {})


def frame_rows(result: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(what, number) of images."""
    return [(words, result[name]) for name, words in COUNT_LABELS.items() if name in result]


def latency_rows(latency_ms: Mapping[str, Mapping[str, float]]) -> list[tuple[str, list[str]]]:
    """(stage, [p50, p95, p99, max]) in ms, of the stages there are."""
    return [
        (words, [_ms(latency_ms[stage].get(q)) for q in ("p50", "p95", "p99", "max")])
        for stage, words in STAGE_LABELS.items()
        if stage in latency_ms
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

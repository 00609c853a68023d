"""The result of a demo run as `summary.json` and as one table."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from mtc_perception.core.bundle import Bundle
from mtc_perception.replay.demo.scoring import Scores
from mtc_perception.replay.live.result import LiveConfig, LiveResult
from mtc_perception.replay.results.rows import STAGE_WORDS, frame_rows, latency_rows, metric_rows
from mtc_perception.util.provenance import provenance


def summarise(
    config: LiveConfig, bundle: Bundle, result: LiveResult, scores: Scores
) -> dict[str, Any]:
    """The content of `summary.json`."""
    manifest, engine = bundle.manifest, result.engine
    source, usage = result.source, result.usage
    frames = len(result.published)
    summary: dict[str, Any] = {
        **result.counts(),
        "engine": engine["engine"],
        "engine_why": engine["why"],
        "engine_degraded": engine["degraded"],
        "device": engine["device"],
        "precision": engine["precision"],
        "latency_ms": result.latencies_ms(),
        **scores.metrics,
        "labelled_frames": scores.labelled,
        "params": manifest.params,
        "gmacs": manifest.gmacs,
        "thresholds": {
            task: float(engine[f"{task}_threshold"]) for task in ("score", "drivable", "lane")
        },
        "node": {
            "resident_mib_first": round(usage[0].resident_mib, 1),
            "resident_mib_last": round(usage[-1].resident_mib, 1),
            "cpu_ms_per_frame": round((usage[-1].cpu_s - usage[0].cpu_s) / frames * 1e3, 2),
        },
        "player_late_ms_max": round(max(one.late_ms for one in result.published), 2),
        "input": {
            "name": source.name,
            "kind": source.kind,
            "topic": source.topic,
            "rate_hz": round(source.rate_hz, 3),
            "frames_in_recording": source.frames,
            "frames_unreadable": result.unreadable,
            "transport": config.transport,
        },
        "bundle": {
            "name": bundle.path.name,
            "network": manifest.name,
            "version": manifest.version,
            "sha256": {key: variant.sha256 for key, variant in manifest.variants.items()},
        },
    }
    return summary | provenance()


def table(summary: Mapping[str, Any]) -> Table:
    """Everything on one screen."""
    source = summary["input"]
    result = Table(
        title=f"{source['name']} at {source['rate_hz']:g} Hz, {source['transport']}",
        title_justify="left",
    )
    result.add_column("images, milliseconds" + (", fractions" if metric_rows(summary) else ""))
    for quantile in ("p50", "p95", "p99", "max"):
        result.add_column(quantile, justify="right")
    for words, count in frame_rows(summary):
        style = "red" if count and words in ("dropped", "stale", "malformed") else ""
        result.add_row(words, str(count), style=style)
    result.add_section()
    for words, values in latency_rows(summary["latency_ms"]):
        style = "bold" if words == STAGE_WORDS["end_to_end"] else ""
        result.add_row(words, *values, style=style)
    if rows := metric_rows(summary):
        result.add_section()
        for words, value in rows:
            result.add_row(words, value)
    return result

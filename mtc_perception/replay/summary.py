"""The result of a demo run as `summary.json` and as one table."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from mtc_perception.bundle import Bundle
from mtc_perception.provenance import provenance
from mtc_perception.replay.live import LiveConfig, LiveResult
from mtc_perception.replay.scoring import Scores

_FRAME_WORDS = {
    "frames_in": "frames in",
    "frames_processed": "processed",
    "frames_dropped": "dropped",
    "frames_stale": "stale",
    "frames_malformed": "malformed",
}
STAGE_WORDS = {
    "receive": "receive (stamp to callback)",
    "wait": "wait for the engine",
    "preprocess": "preprocess",
    "inference": "inference",
    "decode": "decode",
    "publish": "publish",
    "published": "stamp to published",
    "end_to_end": "end to end",
}
_METRIC_WORDS = {
    ("detection", "recall"): "vehicle recall (IoU 0.5)",
    ("detection", "map50"): "vehicle mAP50",
    ("detection", "map50_95"): "vehicle mAP50:95",
    ("drivable", "miou"): "drivable area mIoU",
    ("drivable", "iou"): "drivable area IoU",
    ("lane", "iou"): "lane IoU",
    ("lane", "accuracy"): "lane accuracy",
}


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


def metric_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value) of every accuracy figure there is."""
    rows = []
    for (task, name), words in _METRIC_WORDS.items():
        if task in summary:
            value = summary[task][name]
            rows.append((words, "undefined" if value is None else f"{value:.3f}"))
    return rows


def frame_rows(summary: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(what, number) of images."""
    return [(words, summary[name]) for name, words in _FRAME_WORDS.items()]


def latency_rows(summary: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(stage, [p50, p95, p99, max]) in ms."""
    return [
        (words, [_ms(summary["latency_ms"][stage].get(q)) for q in ("p50", "p95", "p99", "max")])
        for stage, words in STAGE_WORDS.items()
    ]


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
    for words, values in latency_rows(summary):
        style = "bold" if words == STAGE_WORDS["end_to_end"] else ""
        result.add_row(words, *values, style=style)
    if rows := metric_rows(summary):
        result.add_section()
        for words, value in rows:
            result.add_row(words, value)
    return result


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

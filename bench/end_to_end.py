"""The whole way: image stamp to last output received by another process, against the engine."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.common import brief, time_engine, write_result
from mtc_perception.core.bundle import Bundle
from mtc_perception.engines.open import open_engine
from mtc_perception.metrics.figures import STAGE_LABELS
from mtc_perception.replay.live.live_run import LiveResult, Usage, run_live
from mtc_perception.replay.live.reel import LiveConfig
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.recordings.synthetic_drive import (
    SYNTHETIC_HEIGHT,
    SYNTHETIC_RATE_HZ,
    SYNTHETIC_WIDTH,
)
from mtc_perception.util.progress import Progress

ENGINE_RUNS = 150
# Enough different images; more would only fill memory.
RECORDED_S = 2.0
SETTLED_S = 10.0
ALLOWED_RATIO, ALLOWED_MS = 1.25, 6.0
ALLOWED_GROWTH_MIB = 5.0


def bench_end_to_end(
    bundle: Bundle, bag: Path, results: Path, seconds: float, console: Console
) -> bool:
    """Play for `seconds`, print and write `end_to_end.json`; whether every target was met.

    Raises UserError.
    """
    before_ms = _bare_engine_ms(bundle)
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        recording = Recording(path=bag)
        config = LiveConfig(
            recording,
            ReplayOptions(bundle=bundle.path, seconds=RECORDED_S, transport="raw"),
            transport="raw",
            repeat_s=seconds,
            keep_results=False,
        )
        result = run_live(config, recording.open().info, Path(folder), progress.count)
    after_ms = _bare_engine_ms(bundle)
    content = _evaluate(bundle, result, before_ms, after_ms, seconds)
    console.print(_table(content))
    for name, verdict in content["targets"].items():
        console.print(f"{'PASS' if verdict['met'] else 'MISS'}  {name}: {verdict['words']}")
    console.print(f"wrote {write_result(results, 'end_to_end', content)}\n", highlight=False)
    return all(verdict["met"] for verdict in content["targets"].values())


def _bare_engine_ms(bundle: Bundle) -> list[float]:
    engine, *_ = open_engine(bundle)
    try:
        return time_engine(engine, ENGINE_RUNS)
    finally:
        engine.close()


def _evaluate(
    bundle: Bundle,
    result: LiveResult,
    before_ms: list[float],
    after_ms: list[float],
    seconds: float,
) -> dict[str, Any]:
    bare_ms = statistics.median(before_ms + after_ms)
    latencies = result.latencies_ms()
    end_to_end_ms = latencies["end_to_end"]["p50"]
    limit_ms = ALLOWED_RATIO * bare_ms + ALLOWED_MS
    counts = result.counts()
    lost = counts["frames_in"] - counts["frames_processed"]
    first, last = _settled(result.usage), result.usage[-1]
    growth_mib = last.resident_mib - first.resident_mib
    return {
        "bundle": bundle.path.name,
        "device": result.engine["device"],
        "precision": result.engine["precision"],
        "input": f"{SYNTHETIC_WIDTH}x{SYNTHETIC_HEIGHT} raw, {SYNTHETIC_RATE_HZ} Hz, {seconds:g} s",
        "bare_engine_ms": {"before": brief(before_ms), "after": brief(after_ms), "p50": bare_ms},
        "latency_ms": latencies,
        "end_to_end_over_bare_engine": round(end_to_end_ms / bare_ms, 3),
        **counts,
        "player_late_ms_max": round(max(one.late_ms for one in result.published), 2),
        "node_cpu_ms_per_frame": round((last.cpu_s - first.cpu_s) / counts["frames_in"] * 1e3, 2),
        "node_resident_mib": [
            [round(usage.since_start_s, 1), round(usage.resident_mib, 1)] for usage in result.usage
        ],
        "targets": {
            "end-to-end p50": {
                "met": end_to_end_ms <= limit_ms,
                "words": f"{end_to_end_ms:.1f} ms, allowed {ALLOWED_RATIO} x {bare_ms:.1f} ms "
                f"(bare engine) + {ALLOWED_MS:g} ms = {limit_ms:.1f} ms",
            },
            "no drops": {
                "met": lost == 0,
                "words": f"{lost} of {counts['frames_in']} images without an answer",
            },
            "memory flat": {
                "met": growth_mib <= ALLOWED_GROWTH_MIB,
                "words": f"{first.resident_mib:.1f} MiB after {first.since_start_s:.0f} s, "
                f"{last.resident_mib:.1f} MiB after {last.since_start_s:.0f} s "
                f"(allowed: {ALLOWED_GROWTH_MIB:g} MiB more)",
            },
        },
    }


def _settled(usage: list[Usage]) -> Usage:
    """The first sample once buffers are as large as they get; the first of all in short runs."""
    return next((one for one in usage if one.since_start_s >= SETTLED_S), usage[0])


def _table(content: dict[str, Any]) -> Table:
    table = Table(
        title=f"End to end, {content['input']}, ms (every image's stamp to its last output)",
        title_justify="left",
    )
    table.add_column("stage")
    for quantile in ("p50", "p95", "p99", "max"):
        table.add_column(quantile, justify="right")
    rows = {"bare engine, before": content["bare_engine_ms"]["before"]}
    rows |= content["latency_ms"]
    rows |= {"bare engine, after": content["bare_engine_ms"]["after"]}
    for stage, values in rows.items():
        style = "bold" if stage == "end_to_end" else ""
        cells = (f"{values[q]:.2f}" if q in values else "-" for q in ("p50", "p95", "p99", "max"))
        table.add_row(STAGE_LABELS.get(stage, stage), *cells, style=style)
    return table

"""The whole way: image stamp to last output received by another process, against the engine."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from bench.common import brief, identity, time_engine, write_result
from bench.live_cameras import Case, Measured, play
from bench.start import first_answer_s
from mtc_perception.core.bundle import Bundle
from mtc_perception.engines.tensorrt.store import default_root
from mtc_perception.replay.live.live_run import Usage
from mtc_perception.replay.recordings.recording import Transport
from mtc_perception.replay.recordings.synthetic_drive import (
    SYNTHETIC_HEIGHT,
    SYNTHETIC_RATE_HZ,
    SYNTHETIC_WIDTH,
)
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from mtc_perception.util.progress import Progress

QUANTILES = ("p50", "p95", "p99", "max")
ROUNDS = 2
"""Of all cases in turns, so that what the machine does besides falls on all of them."""
OTHERS_SHARE = 1 / 3
"""Of the time; with all of it a run would take more than six minutes."""
ENGINE_RUNS = 100
ONE_CAMERA = ("front",)
FOUR_CAMERAS = ("front", "left", "right", "rear")
FOUR_CAMERAS_HZ = 10.0
SETTLED_S = 10.0
RAW_P50_MS, RAW_ADDED_MS, JPEG_ADDED_MS = 10.0, 5.0, 7.0
MOST_P99_RATIO, MOST_GROWTH_MIB, MOST_START_S = 1.8, 5.0, 2.0

Targets = dict[str, dict[str, Any]]


def bench_end_to_end(
    bundle: Bundle, bag: Path, results: Path, seconds: float, console: Console
) -> bool:
    """Play raw images for `seconds`, the other cases shorter, print and write `end_to_end.json`;
    whether every target was met.

    Raises UserError.
    """
    with open_perceiver(Selection(bundle.path)) as perceiver:
        default = perceiver.engine.precision
    offered = {variant.precision for variant in bundle.manifest.variants.values()}
    precisions = dict.fromkeys(one for one in ("fp32", "int8", default) if one in offered)
    inputs: list[tuple[tuple[str, ...], float, Transport]] = [
        (ONE_CAMERA, SYNTHETIC_RATE_HZ, "raw"),
        (ONE_CAMERA, SYNTHETIC_RATE_HZ, "compressed"),
        (FOUR_CAMERAS, FOUR_CAMERAS_HZ, "compressed"),
    ]
    cases = {Case(*one, precision): Measured() for one in inputs for precision in precisions}
    bare_ms: dict[str, list[float]] = {precision: [] for precision in precisions}
    with Progress(console=console) as progress:
        starts = list(progress.track(_starts(bundle, bag), "end to end, start", 2))
        tick = progress.ticker("end to end, cases", ROUNDS * len(cases))
        for _ in range(ROUNDS):
            for precision, times_ms in bare_ms.items():
                times_ms += _bare_engine_ms(bundle, precision)
            for case, measured in cases.items():
                # Most of the targets are about raw images and the default.
                whole = case.transport == "raw" and case.precision == default
                share = 1.0 if whole else OTHERS_SHARE
                play(bundle.path, bag, case, share * seconds / ROUNDS, measured)
                tick()
    content = identity(bundle) | result_of(cases, bare_ms, starts, default)
    console.print(_table(content))
    for name, verdict in content["targets"].items():
        line = f"{'PASS' if verdict['met'] else 'MISS'}  {name}: {verdict['words']}"
        console.print(line, soft_wrap=True, highlight=False)
    console.print(f"wrote {write_result(results, 'end_to_end', content)}\n", highlight=False)
    return all(verdict["met"] for verdict in content["targets"].values())


def _bare_engine_ms(bundle: Bundle, precision: str) -> list[float]:
    with open_perceiver(Selection(bundle.path, precision=precision)) as perceiver:
        return time_engine(perceiver.engine, ENGINE_RUNS)


def _starts(bundle: Bundle, bag: Path) -> Iterator[float]:
    """Seconds to the first answer: where nothing is remembered of earlier starts, and again."""
    with _no_cache():
        for _ in range(2):
            yield first_answer_s(bundle.path, bag)


@contextmanager
def _no_cache() -> Iterator[None]:
    """Nothing of what earlier processes remembered but built engines; what is remembered meanwhile
    goes as well."""
    engines = str(default_root())
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, XDG_CACHE_HOME=folder, MTC_ENGINE_CACHE=engines),
    ):
        yield


def result_of(
    cases: dict[Case, Measured],
    bare_ms: dict[str, list[float]],
    starts_s: list[float],
    default: str,
) -> dict[str, Any]:
    """The content of `end_to_end.json`. Of the precision `default` there are three cases: one
    camera raw, one compressed, and several."""
    rows = {case.name: _row(case, measured) for case, measured in cases.items()}
    bare = {precision: brief(times_ms) for precision, times_ms in bare_ms.items()}
    cold_s, second_s = starts_s
    of_default = [case.name for case in cases if case.precision == default]
    raw, jpeg, four = (rows[name] for name in of_default)
    start = {
        "second start": _verdict(
            second_s <= MOST_START_S,
            f"{second_s:.1f} s to the first answer (the first time {cold_s:.1f} s),"
            f" allowed {MOST_START_S:g} s",
        )
    }
    return {
        "device": raw["engine"]["device"],
        "input": f"{SYNTHETIC_WIDTH}x{SYNTHETIC_HEIGHT}",
        "default_precision": default,
        "default": of_default[0],
        "bare_engine_ms": bare,
        "start_s": {"first": round(cold_s, 2), "second": round(second_s, 2)},
        "cases": rows,
        "targets": _targets(raw, jpeg, four, bare, default) | start,
    }


def _row(case: Case, measured: Measured) -> dict[str, Any]:
    return {
        "cameras": len(case.cameras),
        "rate_hz": case.rate_hz,
        "transport": case.transport,
        "precision": case.precision,
        "engine": {key: measured.engine[key] for key in ("engine", "device", "precision")},
        "images": measured.images,
        "unanswered": measured.unanswered,
        "latency_ms": {name: _rounded(one) for name, one in measured.latency_ms().items()},
        "player_late_ms_max": round(measured.late_ms, 2),
        "node_cpu_ms_per_image": round(measured.cpu_ms_per_image(), 2),
        "node_resident_mib": [
            [[round(one.since_start_s, 1), round(one.resident_mib, 1)] for one in run]
            for run in measured.usage
        ],
        "memory_growth_mib": round(max(_growth_mib(run) for run in measured.usage), 1),
    }


def _targets(
    raw: dict[str, Any],
    jpeg: dict[str, Any],
    four: dict[str, Any],
    bare: dict[str, dict[str, float]],
    default: str,
) -> Targets:
    """Of the precision that the node takes by default."""
    bare_ms = bare[default]["p50"]
    raw_ms, jpeg_ms = raw["latency_ms"]["end_to_end"], jpeg["latency_ms"]["end_to_end"]
    raw_limit_ms = max(RAW_P50_MS, bare_ms + RAW_ADDED_MS)
    jpeg_limit_ms = bare_ms + JPEG_ADDED_MS
    return {
        "raw, p50": _verdict(
            raw_ms["p50"] <= raw_limit_ms,
            f"{raw_ms['p50']:.1f} ms, allowed {raw_limit_ms:.1f} ms ({RAW_P50_MS:g} ms, or bare"
            f" engine {bare_ms:.1f} ms + {RAW_ADDED_MS:g} ms)",
        ),
        "raw, p99": _verdict(
            raw_ms["p99"] <= MOST_P99_RATIO * raw_ms["p50"],
            f"{raw_ms['p99']:.1f} ms, x {raw_ms['p99'] / raw_ms['p50']:.2f} of p50,"
            f" allowed x {MOST_P99_RATIO:g}",
        ),
        "raw, no drops": _unanswered(raw),
        "memory flat": _verdict(
            raw["memory_growth_mib"] <= MOST_GROWTH_MIB,
            f"{raw['memory_growth_mib']:.1f} MiB more at the end of a run than {SETTLED_S:g} s"
            f" after its beginning, allowed {MOST_GROWTH_MIB:g} MiB",
        ),
        "JPEG, p50": _verdict(
            jpeg_ms["p50"] <= jpeg_limit_ms,
            f"{jpeg_ms['p50']:.1f} ms, allowed {jpeg_limit_ms:.1f} ms (bare engine {bare_ms:.1f} ms"
            f" + {JPEG_ADDED_MS:g} ms)",
        ),
        "JPEG, no drops": _unanswered(jpeg),
        f"{len(FOUR_CAMERAS)} cameras, no drops": _unanswered(four),
    }


def _unanswered(row: dict[str, Any]) -> dict[str, Any]:
    words = f"{row['unanswered']} of {row['images']} images without an answer"
    return _verdict(row["unanswered"] == 0, words)


def _verdict(met: bool, words: str) -> dict[str, Any]:
    return {"met": met, "words": words}


def _growth_mib(run: list[Usage]) -> float:
    """Once buffers are as large as they get; since the first sample in short runs."""
    settled = next((one for one in run if one.since_start_s >= SETTLED_S), run[0])
    return run[-1].resident_mib - settled.resident_mib


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


def _table(content: dict[str, Any]) -> Table:
    table = Table(
        title=f"End to end, {content['input']}, ms (image published to last output received)",
        title_justify="left",
    )
    table.add_column("case")
    for column in (*QUANTILES, "unanswered", "CPU per image", "MiB"):
        table.add_column(column, justify="right")
    for name, row in content["cases"].items():
        times_ms = row["latency_ms"].get("end_to_end", {})
        cells = (f"{times_ms[q]:.1f}" if times_ms else "-" for q in QUANTILES)
        memory_mib = max(one[1] for run in row["node_resident_mib"] for one in run)
        table.add_row(
            name,
            *cells,
            f"{row['unanswered']} of {row['images']}",
            f"{row['node_cpu_ms_per_image']:.1f}",
            f"{memory_mib:.0f}",
        )
    for precision, times_ms in content["bare_engine_ms"].items():
        cells = (f"{times_ms[q]:.1f}" for q in QUANTILES)
        table.add_row(f"bare engine, {precision}", *cells)
    return table

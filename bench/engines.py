"""Bare engine time: OpenVINO against ONNX Runtime, interleaved in one run, next to the peers'."""

import contextlib
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.common import brief, time_engine, tracked, write_result
from bench.peers import CONDITIONS, PEERS
from mtc_perception.core.bundle import Bundle
from mtc_perception.core.engine import Engine
from mtc_perception.engines.open import open_engine

ENGINES = ("openvino", "onnxruntime")
BLOCKS, RUNS_PER_BLOCK = 30, 10


def bench_engines(bundle: Bundle, results: Path, console: Console) -> None:
    """Measure every engine on the bundle, print and write `engines.json`. Raises UserError."""
    with contextlib.ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name in ENGINES:
            engine, *_ = open_engine(bundle, name, "fp32")  # type: ignore[arg-type]
            stack.callback(engine.close)
            engines[name] = engine
        blocks: dict[str, list[list[float]]] = {name: [] for name in ENGINES}
        for _ in tracked(range(BLOCKS), "engines", console):
            for name, engine in engines.items():
                time_engine(engine, 1)  # the other engine has just had the caches
                blocks[name].append(time_engine(engine, RUNS_PER_BLOCK))
        measured: dict[str, dict[str, Any]] = {
            name: {
                "device": engine.device,
                "precision": engine.precision,
                "latency_ms": brief([value for block in blocks[name] for value in block]),
            }
            for name, engine in engines.items()
        }
    # Per block, since both saw the same state of the machine there.
    ratio = statistics.median(
        statistics.median(other) / statistics.median(own)
        for own, other in zip(blocks["openvino"], blocks["onnxruntime"], strict=True)
    )
    manifest = bundle.manifest
    content: dict[str, Any] = {
        "bundle": bundle.path.name,
        "input": f"{manifest.input.width}x{manifest.input.height}",
        "params": manifest.params,
        "gmacs": manifest.gmacs,
        "engines": measured,
        "onnxruntime_over_openvino": round(ratio, 3),
        "peers": {"conditions": CONDITIONS, "networks": [asdict(peer) for peer in PEERS]},
    }
    console.print(_table(content))
    p95 = ", ".join(f"{name} {one['latency_ms']['p95']:.1f}" for name, one in measured.items())
    console.print(f"p95: {p95}. ONNX Runtime takes {ratio:.2f} x OpenVINO's time.")
    console.print(f"Peers: {CONDITIONS}.")
    console.print(f"wrote {write_result(results, 'engines', content)}\n", highlight=False)


def _table(content: dict[str, Any]) -> Table:
    table = Table(
        title=f"Bare engine time at {content['input']}, one image, median in ms",
        title_justify="left",
    )
    for column in ("network", "tasks"):
        table.add_column(column)
    for column in ("M params", "OpenVINO", "ONNX Runtime"):
        table.add_column(column, justify="right")
    own = [f"{content['engines'][name]['latency_ms']['p50']:.1f}" for name in ENGINES]
    table.add_row(
        content["bundle"], "all three", f"{content['params'] / 1e6:.2f}", *own, style="bold"
    )
    table.add_section()
    for peer in PEERS:
        times = (_range(peer.openvino_ms), _range(peer.onnxruntime_ms))
        table.add_row(peer.name, peer.tasks, f"{peer.params_m:g}", *times)
    return table


def _range(values: tuple[float, float]) -> str:
    low, high = values
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"

"""Bare engine time: in fp32 and by default, interleaved in one run, next to the peers'."""

import contextlib
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.common import brief, identity, time_engine, tracked, write_result
from bench.peers import CONDITIONS, PEERS, Peer
from mtc_perception.core.bundle import Bundle
from mtc_perception.core.engine import Engine
from mtc_perception.engines.open import open_engine

ENGINES = ("openvino", "onnxruntime")
BLOCKS, RUNS_PER_BLOCK = 30, 10
MOST_OF_FP32 = {"openvino": 0.45, "onnxruntime": 0.6}
"""Target: time of an engine as it is by default over that of fp32."""


def bench_engines(bundle: Bundle, results: Path, console: Console) -> bool:
    """Measure every engine on the bundle, in fp32 and as it is by default, print and write
    `engines.json`; whether every target was met.

    Raises UserError.
    """
    with contextlib.ExitStack() as stack:
        engines: dict[tuple[str, str], Engine] = {}
        for name in ENGINES:
            for way, precision in (("fp32", "fp32"), ("default", None)):
                engine, *_ = open_engine(bundle, name, precision)  # type: ignore[arg-type]
                stack.callback(engine.close)
                engines[name, way] = engine
        blocks: dict[tuple[str, str], list[list[float]]] = {one: [] for one in engines}
        for _ in tracked(range(BLOCKS), "engines", console):
            for one, engine in engines.items():
                time_engine(engine, 1)  # the other engine has just had the caches
                blocks[one].append(time_engine(engine, RUNS_PER_BLOCK))
    measured: dict[str, dict[str, Any]] = {}
    for name in ENGINES:
        plain, default = blocks[name, "fp32"], blocks[name, "default"]
        measured[name] = {
            "device": engines[name, "default"].device,
            "precision": engines[name, "default"].precision,
            "fp32_ms": _brief(plain),
            "default_ms": _brief(default),
            "of_fp32": round(_ratio(default, plain), 3),
        }
    manifest = bundle.manifest
    content: dict[str, Any] = {
        **identity(bundle),
        "input": f"{manifest.input.width}x{manifest.input.height}",
        "params": manifest.params,
        "gmacs": manifest.gmacs,
        "engines": measured,
        "peers": {"conditions": CONDITIONS, "networks": [_row(one, measured) for one in PEERS]},
        "targets": {
            f"{name} by default": {
                "met": one["of_fp32"] <= MOST_OF_FP32[name],
                "words": f"{one['precision']} takes x {one['of_fp32']:.2f} of fp32's time,"
                f" allowed x {MOST_OF_FP32[name]:g}",
            }
            for name, one in measured.items()
        },
    }
    console.print(_table(content))
    for name, verdict in content["targets"].items():
        line = f"{'PASS' if verdict['met'] else 'MISS'}  {name}: {verdict['words']}"
        console.print(line, soft_wrap=True, highlight=False)
    console.print(f"Peers: {CONDITIONS}.")
    console.print(f"wrote {write_result(results, 'engines', content)}\n", highlight=False)
    return all(verdict["met"] for verdict in content["targets"].values())


def _brief(blocks: list[list[float]]) -> dict[str, float]:
    return brief([value for block in blocks for value in block])


def _ratio(blocks: list[list[float]], others: list[list[float]]) -> float:
    """Per block, since both saw the same state of the machine there."""
    return statistics.median(
        statistics.median(own) / statistics.median(other)
        for own, other in zip(blocks, others, strict=True)
    )


def _row(peer: Peer, measured: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A peer, and how many times as long as ours it takes on OpenVINO, at its best."""
    ours, best_ms = measured["openvino"], min(peer.openvino_ms)
    return asdict(peer) | {
        f"times_{way}": round(best_ms / ours[f"{way}_ms"]["p50"], 1) for way in ("fp32", "default")
    }


def _table(content: dict[str, Any]) -> Table:
    table = Table(
        title=f"Bare engine time at {content['input']}, one image, median in ms",
        title_justify="left",
    )
    for column in ("network", "tasks"):
        table.add_column(column)
    for column in ("M params", "OpenVINO", "ONNX Runtime", "x fp32", "x default"):
        table.add_column(column, justify="right")
    for way in ("fp32", "default"):
        own = [f"{content['engines'][name][f'{way}_ms']['p50']:.1f}" for name in ENGINES]
        name, params = f"{content['bundle']}, {way}", f"{content['params'] / 1e6:.2f}"
        table.add_row(name, "all three", params, *own, style="bold")
    table.add_section()
    for peer in content["peers"]["networks"]:
        times = (_range(peer["openvino_ms"]), _range(peer["onnxruntime_ms"]))
        longer = (f"{peer[f'times_{way}']:.1f}" for way in ("fp32", "default"))
        table.add_row(peer["name"], peer["tasks"], f"{peer['params_m']:g}", *times, *longer)
    return table


def _range(values: tuple[float, float]) -> str:
    low, high = values
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"

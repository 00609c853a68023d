"""Size and speed of the teachers beside the network they are modelled on, with random weights."""

import contextlib
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.common import brief, time_engine, tracked, write_result
from bench.engines import ENGINES
from bench.peers import CONDITIONS, PEERS
from mtc_perception.core.engine import Engine, Network
from mtc_perception.engines.load import load_engine
from offline_compress.export import MAX_DETECTIONS, count_gmacs, count_parameters, onnx_graph
from offline_compress.models.registry import MODELS, ModelSpec

BLOCKS, RUNS_PER_BLOCK = 10, 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A registered network at one input size; `segmentation` replaces its mask decoder."""

    model: str
    height: int
    width: int
    segmentation: str | None = None

    def title(self) -> str:
        """E.g. `rmt_ppad_l full`."""
        return f"{self.model} {self.segmentation}" if self.segmentation else self.model

    def size(self) -> str:
        """Width x height, as everywhere."""
        return f"{self.width}x{self.height}"

    def build(self) -> torch.nn.Module:
        """The network in eval mode, with the same random weights each time."""
        architecture, arguments = MODELS[self.model]
        if self.segmentation:
            arguments = {**arguments, "segmentation": self.segmentation}
        torch.manual_seed(0)
        return (
            ModelSpec(self.model, architecture, arguments, ["vehicle"], self.height, self.width)
            .build()
            .eval()
        )


CANDIDATES = (
    Candidate("rmt_ppad_l", 640, 640, "full"),
    Candidate("rmt_ppad_l", 640, 640, "stride4"),
    Candidate("rmt_ppad_l", 384, 640, "full"),
    Candidate("rmt_ppad_l", 384, 640, "stride4"),
    Candidate("rmt_ppad_n", 384, 640),
    Candidate("mtc_s", 384, 640),
    Candidate("mtc_xs", 384, 640),
)

_PEER = next(peer for peer in PEERS if peer.name == "RMT-PPAD")
ORIGINAL: dict[str, Any] = {
    "name": "RMT-PPAD",
    "conditions": f"{CONDITIONS}; its own code (arXiv 2508.06529, commit fbfad20), exported",
    "params_m": _PEER.params_m,
    "sizes": {
        "640x640": {
            "gflops": 210.5,
            "latency_ms": {"openvino": [1095, 1095], "onnxruntime": [1318, 1318]},
        },
        "640x384": {
            "gflops": _PEER.gflops,
            "latency_ms": {
                "openvino": list(_PEER.openvino_ms),
                "onnxruntime": list(_PEER.onnxruntime_ms),
            },
        },
    },
}
"""Not measured here: its code is no part of this repository. Ranges are several runs."""


def bench_teacher(results: Path, console: Console) -> None:
    """Count and time every candidate, print and write `teacher.json`."""
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        engines: list[dict[str, Engine]] = []
        for candidate in tracked(CANDIDATES, "building", console):
            model = candidate.build()
            graph = onnx_graph(model, candidate.height, candidate.width)
            gmacs = count_gmacs(model, candidate.height, candidate.width)
            rows.append(
                {
                    "name": candidate.title(),
                    "input": candidate.size(),
                    "params_trained": sum(p.numel() for p in model.parameters()),
                    "params": count_parameters(model),
                    "gmacs": round(gmacs, 3),
                    "gflops": round(2 * gmacs, 2),
                }
            )
            network = Network(graph, "fp32", candidate.height, candidate.width, MAX_DETECTIONS)
            engines.append({name: load_engine(network, name) for name in ENGINES})
            for engine in engines[-1].values():
                stack.callback(engine.close)
        times: list[dict[str, list[list[float]]]] = [{name: [] for name in ENGINES} for _ in rows]
        for _ in tracked(range(BLOCKS), "measuring", console):
            for own, taken in zip(engines, times, strict=True):
                for name, engine in own.items():
                    time_engine(engine, 1)  # the engine before has just had the caches
                    taken[name].append(time_engine(engine, RUNS_PER_BLOCK))
        for row, own, taken in zip(rows, engines, times, strict=True):
            row["latency_ms"] = {
                name: brief([value for block in taken[name] for value in block]) for name in ENGINES
            }
            row["devices"] = {name: engine.device for name, engine in own.items()}
    content: dict[str, Any] = {
        "conditions": f"batch 1, fp32, random weights; {BLOCKS} blocks of {RUNS_PER_BLOCK} runs, "
        "all networks and engines in turn",
        "networks": rows,
        "full_over_stride4": {
            CANDIDATES[index].size(): {
                name: round(_ratio(times[index][name], times[index + 1][name]), 3)
                for name in ENGINES
            }
            for index in (0, 2)
        },
        "original": ORIGINAL,
    }
    console.print(_table(rows))
    for size, ratios in content["full_over_stride4"].items():
        text = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        console.print(f"rmt_ppad_l at {size}, time of full over that of stride4: {text}")
    console.print(f"RMT-PPAD: {ORIGINAL['conditions']}.")
    console.print(f"wrote {write_result(results, 'teacher', content)}\n", highlight=False)


def _ratio(slow: list[list[float]], fast: list[list[float]]) -> float:
    """Per block, since both saw the same state of the machine there."""
    return statistics.median(
        statistics.median(a) / statistics.median(b) for a, b in zip(slow, fast, strict=True)
    )


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Teachers, one image, median in ms", title_justify="left")
    for column in ("network", "input"):
        table.add_column(column)
    for column in ("M params, trained", "fused", "GFLOPs", "OpenVINO", "ONNX Runtime"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            row["input"],
            f"{row['params_trained'] / 1e6:.2f}",
            f"{row['params'] / 1e6:.2f}",
            f"{row['gflops']:.1f}",
            *(f"{row['latency_ms'][name]['p50']:.0f}" for name in ENGINES),
        )
    table.add_section()
    for size, row in ORIGINAL["sizes"].items():
        ranges = ("-".join(f"{t:g}" for t in dict.fromkeys(row["latency_ms"][n])) for n in ENGINES)
        table.add_row(
            ORIGINAL["name"], size, "", f"{ORIGINAL['params_m']:.2f}", f"{row['gflops']}", *ranges
        )
    return table

"""Ahead-of-time builds by TensorRT-RTX for every target it has: seconds, sizes, refusals.

Networks: the variants of every shipped bundle, and `TEACHER` with random weights through the real
export and quantisation. Whether and how a graph builds depends on its form, not on its weights.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.common import write_result
from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.engine import Network
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.engines.tensorrt.build import (
    RTX_TARGETS,
    BuildSettings,
    build_engine,
    check_available,
    fitting_variants,
)
from mtc_perception.util.errors import EngineError
from mtc_perception.util.progress import Progress
from offline_compress.export import network_of, onnx_graph
from offline_compress.models.registry import MODELS, ModelSpec
from offline_compress.quantization import fp16
from offline_compress.quantization import int8_tensorrt as tensorrt
from offline_compress.quantization.graph import folded, serialised

TEACHER = "rmt_ppad_l"
"""Grid sampling, top-k and attention, what TensorRT finds hardest."""
HEIGHT, WIDTH = 384, 640


def bench_tensorrt(results: Path, console: Console) -> None:
    """Build everything, print and write `tensorrt.json`. Raises UserError."""
    check_available(BuildSettings("tensorrt_rtx", RTX_TARGETS))
    rows: list[dict[str, Any]] = []
    with Progress(console=console, alone=True) as progress:
        progress.count("exporting", 0)
        networks = dict(_networks())
        for name, network in networks.items():
            row: dict[str, Any] = {
                "network": name,
                "precision": network.precision,
                "input": f"{network.width}x{network.height}",
                "onnx_mib": round(len(network.model) / 2**20, 2),
                "targets": {},
            }
            for target in progress.track(RTX_TARGETS, f"{name} {network.precision}"):
                row["targets"][target] = _built(network, target, row)
            rows.append(row)
    versions = {row.pop("version") for row in rows if "version" in row}
    content = {"tensorrt_rtx": versions.pop() if versions else None, "networks": rows}
    console.print(_table(content))
    for reason, targets in _refusals(content).items():
        console.print(f"refused for {', '.join(targets)}: {reason}", highlight=False)
    console.print(f"wrote {write_result(results, 'tensorrt', content)}\n", highlight=False)


def _networks() -> Iterator[tuple[str, Network]]:
    for path in sorted(Path("models").glob("*.mtc")):
        bundle = read_bundle(path)
        for variant in fitting_variants(bundle):
            yield f"{bundle.manifest.name} {variant}", Network.of(bundle, variant)
    architecture, arguments = MODELS[TEACHER]
    spec = ModelSpec(TEACHER, architecture, arguments, ["vehicle"], HEIGHT, WIDTH)
    torch.manual_seed(0)
    model = folded(onnx_graph(spec.build().eval(), HEIGHT, WIDTH))
    yield f"{TEACHER} fp16", network_of(serialised(fp16.convert(model)), "fp16")
    frame = self_test_frame(HEIGHT, WIDTH)[None]
    int8 = tensorrt.quantise(model, [frame, frame[:, :, ::-1].copy()])
    yield f"{TEACHER} int8-trt", network_of(serialised(int8), "int8")


def _built(network: Network, target: str, row: dict[str, Any]) -> dict[str, Any]:
    """What became of one build; what holds for all targets goes into `row`."""
    try:
        built = build_engine(network, BuildSettings("tensorrt_rtx", (target,)))
    except EngineError as error:
        return {"refused": str(error)}
    row |= {"version": built.key.version, "products": built.about["products"]}
    return {
        "seconds": built.about["seconds"],
        "engine_mib": round(len(built.engine) / 2**20, 2),
    }


def _cell(found: dict[str, Any]) -> str:
    if "refused" in found:
        return "refused"
    return f"{found['engine_mib']:.1f} / {found['seconds']:.1f}"


def _table(content: dict[str, Any]) -> Table:
    table = Table(
        title=f"TensorRT-RTX {content['tensorrt_rtx']} without a GPU: MiB of the engine / seconds",
        title_justify="left",
    )
    table.add_column("network", no_wrap=True)
    for target in RTX_TARGETS:
        table.add_column(target, justify="right")
    for row in content["networks"]:
        table.add_row(row["network"], *(_cell(row["targets"][target]) for target in RTX_TARGETS))
    return table


def _refusals(content: dict[str, Any]) -> dict[str, list[str]]:
    """Why a network was refused, and for which targets."""
    found: dict[str, list[str]] = {}
    for row in content["networks"]:
        for target, one in row["targets"].items():
            if "refused" in one:
                reason = one["refused"].partition(": ")[2]
                found.setdefault(f"{row['network']}: {reason}", []).append(target)
    return found

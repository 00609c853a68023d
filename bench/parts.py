"""`python -m bench.parts NETWORK...`: milliseconds of each part of a network, on CPU engines.

The engines' own profiles say how long each operation took; operations are those of the part whose
module their name has, fused ones by the name that they kept. Profiling adds a little to
every operation, so that shares are to be trusted more than sums.
"""

import argparse
import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from bench.common import ends_in_one_line, tracked, write_result
from mtc_perception.core.engine import Network
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.engines.openvino import runtime
from offline_compress.evaluation.latency import THREADS
from offline_compress.export import count_parameters, deployed
from offline_compress.models.registry import (
    MODELS,
    ModelSpec,
    load_checkpoint,
    load_spec,
    model_spec,
)
from offline_compress.recipe.parts import InputPx

RUNS, WARM_UP = 40, 5
INPUT = InputPx(height=384, width=640)
"""Of a network without a checkpoint."""
PARTS = {
    "backbone": r"/model/backbone/",
    "encoder: attention": r"/model/encoder/attend/",
    "encoder": r"/model/encoder/",
    "gates": r"/model/\w+_gates",
    "decoder: sampling": r"/model/detection_head/layers\.\d+/cross_attention/",
    "decoder: attention among queries": r"/model/detection_head/layers\.\d+/self_attention/",
    "decoder: rest of the layers": r"/model/detection_head/(layers|box_heads|score_heads|position)",
    "decoder: choice of queries": r"/model/detection_head/(ReduceMax|TopK|Unsqueeze|Gather)",
    "detection head: rest": r"/model/detection_head",
    "masks": r"/model/(mask_|drivable_head|lane_head)",
    "pixels in, answers out": r"",
}
"""Part -> what the names of its operations begin with; the first that fits."""

Profile = Mapping[str, float]
"""Operation -> milliseconds, the median over runs."""


def profile_openvino(network: Network) -> Profile:
    """What OpenVINO says of itself."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERF_COUNT": True,
    }
    core = runtime()
    request = core.compile_model(core.read_model(network.model), "CPU", settings)
    request = request.create_infer_request()
    image = self_test_frame(network.height, network.width)[None]
    times: dict[str, list[float]] = defaultdict(list)
    for run in range(WARM_UP + RUNS):
        request.infer({"image": image})
        for operation in request.get_profiling_info() if run >= WARM_UP else ():
            times[operation.node_name].append(operation.real_time.total_seconds() * 1e3)
    return {name: median(found) for name, found in times.items()}


def profile_onnxruntime(network: Network) -> Profile:
    """What ONNX Runtime says of itself."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        options.log_severity_level = 3
        session = ort.InferenceSession(network.model, options, providers=["CPUExecutionProvider"])
        image = self_test_frame(network.height, network.width)[None]
        for _ in range(WARM_UP + RUNS):
            session.run(None, {"image": image})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"].removesuffix("_kernel_time")].append(event["dur"] / 1e3)
    return {name: median(found[WARM_UP:]) for name, found in times.items()}


ENGINES = {"openvino": profile_openvino, "onnxruntime": profile_onnxruntime}
ENGINE = "openvino"
"""Whose parts are listed; the other has them, too."""


def by_part(profile: Profile) -> dict[str, float]:
    """Milliseconds of every part."""
    found = dict.fromkeys(PARTS, 0.0)
    for name, time_ms in profile.items():
        part = next(part for part, begin in PARTS.items() if re.match(begin, name))
        found[part] += time_ms
    return {part: round(time_ms, 3) for part, time_ms in found.items() if time_ms}


def loaded(word: str) -> tuple[ModelSpec, nn.Module]:
    """A checkpoint, or a network of the registry by its name: random weights take as long."""
    if word in MODELS:
        spec = model_spec(word, ["vehicle"], INPUT.height, INPUT.width)
        return spec, spec.build().eval()
    return load_spec(Path(word)), load_checkpoint(Path(word))


def measure(word: str, console: Console) -> dict[str, Any]:
    """Milliseconds by engine and part. Raises UserError for what is no checkpoint."""
    spec, model = loaded(word)
    network = deployed(model, spec.height, spec.width)
    engines = {
        name: by_part(ENGINES[name](network)) for name in tracked(tuple(ENGINES), word, console)
    }
    return {
        "network": Path(word).name,
        "architecture": spec.name,
        "params": count_parameters(model),
        "ms": engines,
    }


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.parts", description=__doc__)
    parser.add_argument(
        "network",
        nargs="+",
        help=f"folder of a checkpoint, or one of {', '.join(MODELS)} with random weights",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    args = parser.parse_args(arguments)
    console = Console()
    rows = [measure(word, console) for word in args.network]
    parts = [part for part in PARTS if any(part in row["ms"][ENGINE] for row in rows)]
    for engine in ENGINES:
        found = [row["ms"][engine] for row in rows]
        table = Table("part", *(f"{row['network']}, ms" for row in rows), title=engine)
        for part in parts:
            table.add_row(part, *(f"{one.get(part, 0):.2f}" for one in found))
        table.add_row("sum", *(f"{sum(one.values()):.2f}" for one in found), style="bold")
        console.print(table)
    conditions = {"batch": 1, "threads": THREADS, "runs": RUNS}
    content = {"conditions": conditions, "parts": parts, "networks": rows}
    console.print(f"wrote {write_result(args.results, 'parts', content)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

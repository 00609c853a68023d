"""What every layer takes of an engine's time, by the engine's own profiler.

Profilers name the nodes of the graph that they run, after fusing and renaming some. A node is
found by the longest name of the exported graph that the profiler's begins with, and its time goes
to the layer that it computes, or, if it has no weights (resizes, sums, ...), to the layer nearest
above it: what its width depends on.
"""

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from torch import nn

from mtc_perception.engines.openvino import runtime
from offline_compress.evaluation.latency import THREADS
from offline_compress.models.blocks import RepConv
from offline_compress.models.fuse import fuse

EngineName = Literal["openvino", "onnxruntime"]
WARM_UP_RUNS = 2

_MODEL = "/model/"
"""Scope of the network in the deployable graph."""


class Profiler(Protocol):
    """One network loaded with its engine's profiler on."""

    def run(self) -> None:
        """One inference."""

    def node_times_ms(self) -> dict[str, float]:
        """Typical time of each node over the runs; ends them."""


def profiler(engine: EngineName, graph: bytes, height: int, width: int) -> Profiler:
    """Load an exported graph as `mtc_perception.engines.load.load_engine` does, with profiling."""
    kind = OpenVinoProfiler if engine == "openvino" else OnnxRuntimeProfiler
    return kind(graph, height, width)


class OpenVinoProfiler:
    """OpenVINO on the CPU in fp32."""

    def __init__(self, graph: bytes, height: int, width: int) -> None:
        core = runtime()
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": THREADS,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERF_COUNT": True,
        }
        compiled = core.compile_model(core.read_model(graph), "CPU", settings)
        self._request = compiled.create_infer_request()
        self._image = _image(height, width)
        self._times_ms: dict[str, list[float]] = {}
        for _ in range(WARM_UP_RUNS):
            self._request.infer({"image": self._image})

    def run(self) -> None:
        self._request.infer({"image": self._image})
        total: dict[str, float] = {}
        for node in self._request.profiling_info:
            if node.status == node.Status.EXECUTED:
                time_ms = node.real_time.total_seconds() * 1e3
                total[node.node_name] = total.get(node.node_name, 0.0) + time_ms
        for name, time_ms in total.items():
            self._times_ms.setdefault(name, []).append(time_ms)

    def node_times_ms(self) -> dict[str, float]:
        return {name: typical_ms(times) for name, times in self._times_ms.items()}


class OnnxRuntimeProfiler:
    """ONNX Runtime on the CPU."""

    def __init__(self, graph: bytes, height: int, width: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        options.enable_profiling = True
        self._folder = tempfile.TemporaryDirectory()
        options.profile_file_prefix = os.path.join(self._folder.name, "profile")
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._image = _image(height, width)
        for _ in range(WARM_UP_RUNS):
            self.run()

    def run(self) -> None:
        self._session.run(None, {"image": self._image})

    def node_times_ms(self) -> dict[str, float]:
        events = json.loads(Path(self._session.end_profiling()).read_text())
        self._folder.cleanup()
        times_ms: dict[str, list[float]] = {}
        for event in events:
            name = event["name"]
            if event.get("cat") == "Node" and name.endswith("_kernel_time"):
                node_times = times_ms.setdefault(name.removesuffix("_kernel_time"), [])
                node_times.append(event["dur"] / 1e3)
        return {name: typical_ms(times[WARM_UP_RUNS:] or times) for name, times in times_ms.items()}


def typical_ms(times_ms: Sequence[float]) -> float:
    """The lower quartile: whatever else a machine does can only make a run longer."""
    return float(np.quantile(times_ms, 0.25))


def layer_times_ms(
    node_times_ms: Mapping[str, float], graph: onnx.ModelProto, model: nn.Module
) -> dict[str, float]:
    """Time of each layer of `model`, from which `graph` was exported, and `""`: of no layer."""
    layer_of = node_layers(graph, model)
    times_ms: dict[str, float] = {}
    for name, time_ms in node_times_ms.items():
        layer = layer_of.get(_known_prefix(name, layer_of), "")
        times_ms[layer] = times_ms.get(layer, 0.0) + time_ms
    return times_ms


def node_layers(graph: onnx.ModelProto, model: nn.Module) -> dict[str, str]:
    """Layer that the time of a node counts for, by the names of nodes and of their outputs.

    Layers bear their names in the unfused network; `""` is none.
    """
    deployed = _deployed_layers(model)
    layer_of: dict[str, str] = {}
    for node in graph.graph.node:
        layer = deployed.get(_scope(node.name), "")
        # A weightless node: the first of its inputs that comes from a layer.
        layer = layer or next((own for i in node.input if (own := layer_of.get(i, ""))), "")
        for name in (node.name, *node.output):
            layer_of[name] = layer
    return layer_of


def _deployed_layers(model: nn.Module) -> dict[str, str]:
    """Layers with weights of the fused network, by name there, and their names in `model`."""
    merged = {
        f"{name}.0": f"{name}.wide.0"
        for name, part in model.named_modules()
        if isinstance(part, RepConv)
    }
    return {
        name: merged.get(name, name)
        for name, part in fuse(model).named_modules()
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    }


def _scope(node: str) -> str:
    """Dotted name of the module that a node of the exported graph belongs to.

    The exporter writes `/model/stages.0/stages.0.1/enter/enter.0/Conv`: a step repeats the one
    before it where that is a list of modules.
    """
    if not node.startswith(_MODEL):
        return ""
    path: list[str] = []
    for step in node.removeprefix(_MODEL).split("/")[:-1]:
        if path and step.startswith(f"{path[-1]}."):
            path.pop()
        path.append(step)
    return ".".join(path)


def _known_prefix(name: str, known: Mapping[str, Any]) -> str:
    """The longest known name that `name` begins with, whole steps only."""
    ends = [len(name), *(match.start() for match in re.finditer(r"[/_]", name))]
    return next((name[:end] for end in sorted(ends, reverse=True) if name[:end] in known), "")


def _image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)

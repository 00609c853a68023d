"""From a float32 graph to its float16 and int8 variants, each tried, measured and reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol

import onnx

from mtc_perception.core.bundle import EngineName, Manifest, Precision, SelfTest, Thresholds
from mtc_perception.datasets.layout import Sample
from mtc_perception.engines.load import load_engine
from mtc_perception.engines.process_trial import run_trial
from mtc_perception.metrics.figures import figures
from mtc_perception.metrics.sets import mean_over_sets
from mtc_perception.util.errors import EngineError, UserError
from mtc_perception.util.progress import NamedCount
from offline_compress.evaluation.accuracy import evaluate_engine
from offline_compress.export import network_of
from offline_compress.quantization import fp16
from offline_compress.quantization import int8_onnxruntime as onnxruntime
from offline_compress.quantization import int8_openvino as openvino
from offline_compress.quantization import int8_tensorrt as tensorrt
from offline_compress.quantization.activation_ranges import Frames
from offline_compress.quantization.graph import (
    folded,
    serialised,
    with_float_layers,
)
from offline_compress.quantization.sensitivity import Sensitivity, ranking
from offline_compress.recipe.compression import Quantisation, QuantisedVariant

Metrics = dict[str, Any]
Evaluate = Callable[[str, bytes], Metrics]
"""Metric JSON of a variant (`fp32` among them), given its graph."""

WATCHED = figures(
    *("detection.recall", "detection.map50", "detection.map50_95"),
    *("drivable.miou", "drivable.iou", "lane.iou", "lane.accuracy"),
)
"""Figures that a variant must not lose."""
RANKING_FRAMES = 8
MOST_FLOAT = 1 / 6
"""Largest share of the layers that stay in float. Whatever its size, each one costs conversions on
both sides: with more of them nothing is left of what int8 gains."""


class _Int8(Protocol):
    """One way to int8: the modules `onnxruntime`, `openvino` and `tensorrt`."""

    def layers(self, model: onnx.ModelProto) -> list[str]: ...
    def quantise(self, model: onnx.ModelProto, frames: Frames) -> onnx.ModelProto: ...


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a variant is for."""

    precision: Precision
    engines: tuple[EngineName, ...]
    tested_on: EngineName
    """Engine of its golden values and accuracy."""
    tolerance: float = 0.05
    """Of the self-test."""
    tool: str = "onnxruntime"
    """Python package that makes it, besides onnx."""


FP32 = _Kind("fp32", ("tensorrt", "openvino", "onnxruntime"), "onnxruntime")
KINDS: Mapping[str, _Kind] = {
    # ONNX Runtime computes float16 graphs on a CPU in float32, with conversions in between.
    "fp16": _Kind("fp16", ("tensorrt", "openvino"), "openvino", tool="onnx"),
    "int8-ort": _Kind("int8", ("onnxruntime",), "onnxruntime"),
    "int8-openvino": _Kind("int8", ("openvino",), "openvino", tool="nncf"),
    # TensorRT needs a GPU; ONNX Runtime computes what the same graph says, TensorRT fuses more.
    "int8-trt": _Kind("int8", ("tensorrt",), "onnxruntime", tolerance=0.15),
}
_INT8: Mapping[str, _Int8] = {
    "int8-ort": onnxruntime,
    "int8-openvino": openvino,
    "int8-trt": tensorrt,
}


@dataclass(frozen=True, slots=True)
class QuantisedGraph:
    """One variant, ready for a bundle."""

    graph: bytes
    precision: Precision
    engines: tuple[EngineName, ...]
    self_test: SelfTest
    report: dict[str, Any]
    """JSON: tool, tested_on, frames, layers, kept (in float), ranking, loss_points, tolerance,
    within_tolerance and metrics; for int8-trt also tensorrt, what its builder said."""


def quantise(
    graph: bytes,
    frames: Frames,
    variants: Sequence[QuantisedVariant],
    evaluate: Evaluate,
    settings: Quantisation,
    count: NamedCount = lambda _what, _done, _total: None,
) -> dict[QuantisedVariant, QuantisedGraph]:
    """Make `variants` of an exported float32 graph.

    If int8 loses more than `settings.tolerance` points of any of `WATCHED` against fp32, its
    layers are ranked by `sensitivity.ranking`, and 1, 2, 3, 4, 6, 9, ... of the most sensitive
    stay in float until it does not. If it still does with `MOST_FLOAT` of them, the best attempt
    is taken and its report says `within_tolerance: false`.

    Raises UserError if a runtime crashes on or refuses a variant, naming both.
    """
    count("evaluating fp32", 0, None)
    baseline = evaluate("fp32", graph)
    model = folded(graph)
    found: dict[QuantisedVariant, QuantisedGraph] = {}
    for variant in variants:
        if variant == "fp16":
            count("making fp16", 0, None)
            made = _attempt(variant, fp16.convert(model), [], evaluate, baseline)
            found[variant] = made.finished({}, settings.tolerance)
        else:
            found[variant] = _int8(variant, model, frames, evaluate, baseline, settings, count)
    return found


def evaluator(
    sets: Mapping[str, Sequence[Sample]], thresholds: Thresholds, manifest: Manifest
) -> Evaluate:
    """Metrics of a variant on data sets (`mean_over_sets`), on the engine that stands for it
    (`KINDS`), with all cores; `manifest` is the bundle's."""

    def evaluate(variant: str, graph: bytes) -> Metrics:
        kind = KINDS.get(variant, FP32)
        network = network_of(graph, kind.precision)
        engine = load_engine(network, kind.tested_on)
        try:
            found = {
                name: evaluate_engine(
                    engine,
                    samples,
                    thresholds,
                    network.max_detections,
                    manifest.input.fit,
                    network.tasks,
                    manifest.class_map,
                )
                for name, samples in sets.items()
            }
        finally:
            engine.close()
        return mean_over_sets({name: one.metrics.to_json() for name, one in found.items()})

    return evaluate


def losses(baseline: Metrics, metrics: Metrics) -> dict[str, float]:
    """Points (hundredths) by which each of `WATCHED` that both define fell; gains are < 0."""
    lost = {}
    for figure in WATCHED:
        before, after = figure.of(baseline), figure.of(metrics)
        if before is not None and after is not None:
            lost[figure.name] = round(100 * (before - after), 3)
    return lost


@dataclass(frozen=True, slots=True)
class _Attempt:
    variant: str
    graph: bytes
    self_test: SelfTest
    kept: list[str]
    metrics: Metrics
    lost: dict[str, float]

    @property
    def worst(self) -> float:
        return max(self.lost.values(), default=0.0)

    def finished(self, more: dict[str, Any], tolerance: float) -> QuantisedGraph:
        kind = KINDS[self.variant]
        report = {
            "tool": {kind.tool: version(kind.tool)},
            "tested_on": kind.tested_on,
            **more,
            "kept": self.kept,
            "loss_points": self.lost,
            "tolerance": tolerance,
            "within_tolerance": self.worst <= tolerance,
            "metrics": self.metrics,
        }
        return QuantisedGraph(self.graph, kind.precision, kind.engines, self.self_test, report)


def _attempt(
    variant: str,
    model: onnx.ModelProto,
    kept: list[str],
    evaluate: Evaluate,
    baseline: Metrics,
) -> _Attempt:
    graph = serialised(model)
    kind = KINDS[variant]
    # First of all, apart: `evaluate` loads it into this process.
    try:
        golden = run_trial(network_of(graph, kind.precision), kind.tested_on, kind.tolerance)
    except EngineError as error:
        raise UserError(
            f"{kind.tested_on}, given the {variant} graph: {error}; take {variant} out of"
            f" compress.quantise.variants or try another version of {kind.tested_on}"
        ) from error
    metrics = evaluate(variant, graph)
    return _Attempt(variant, graph, golden, kept, metrics, losses(baseline, metrics))


def _int8(
    variant: QuantisedVariant,
    model: onnx.ModelProto,
    frames: Frames,
    evaluate: Evaluate,
    baseline: Metrics,
    settings: Quantisation,
    count: NamedCount,
) -> QuantisedGraph:
    way = _INT8[variant]
    count(f"calibrating {variant}", 0, None)
    whole = way.quantise(model, frames)
    layers = way.layers(model)
    ranked: list[Sensitivity] = []
    kept: list[str] = []
    attempts: list[_Attempt] = []
    while True:
        count(f"evaluating {variant}, {len(kept)} of {len(layers)} layers in float", 0, None)
        mixed = with_float_layers(whole, model, kept)
        attempts.append(_attempt(variant, mixed, kept, evaluate, baseline))
        in_float = max(len(kept) + 1, len(kept) * 3 // 2)
        if attempts[-1].worst <= settings.tolerance or in_float > MOST_FLOAT * len(layers):
            break
        if not ranked:
            ranked = ranking(
                whole,
                model,
                layers,
                frames[:: -(-len(frames) // RANKING_FRAMES)],
                partial(
                    count,
                    f"{variant} loses {attempts[-1].worst:.1f} points: ranking its layers",
                ),
            )
        kept = [one.layer for one in ranked[:in_float]]
    best = min(attempts, key=lambda attempt: attempt.worst)
    more: dict[str, Any] = {
        "frames": len(frames),
        "layers": len(layers),
        "ranking": [asdict(one) for one in ranked],
    }
    if variant == "int8-trt":
        more["tensorrt"] = _built(best.graph)
    return best.finished(more, settings.tolerance)


def _built(graph: bytes) -> dict[str, Any] | str:
    if not tensorrt.can_build():
        return "not built: the Python package tensorrt_rtx is not installed"
    return tensorrt.build(network_of(graph, "int8"))

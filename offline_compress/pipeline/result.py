"""One compression run as one row of a table: `result.json`."""

import json
from pathlib import Path
from typing import Any

from mtc_perception.bundle import Bundle
from mtc_perception.provenance import provenance
from offline_compress.pipeline.folder import RunFolder
from offline_compress.pipeline.latency import Key, Latencies, conditions
from offline_compress.pipeline.stages import MARKERS_FOLDER

SCHEMA = 1
ENGINES = ("openvino", "onnxruntime")
FIGURES = {
    "detection": ("recall", "map50", "map50_95"),
    "drivable": ("miou", "iou"),
    "lane": ("iou", "accuracy"),
}
"""What a row keeps of a metric JSON."""
TEACHER, STUDENT = "teacher", "fp32"
"""Networks of `Latencies`: the teacher, and variants of the student by their names."""


def row(
    run: RunFolder,
    teacher: dict[str, Any],
    student: dict[str, Any],
    variants: dict[str, dict[str, dict[str, Any]]],
    bundle: Bundle,
    latencies: Latencies,
) -> dict[str, Any]:
    """The row of a run.

    Args:
        teacher, student: metric JSON of the checkpoints.
        variants: variant -> engine -> metric JSON, of those that run here.
        bundle: with all variants.
        latencies: of the teacher and of the variants.
    """
    target = run.compress.prune.engine
    begun = run.begun()
    settings = run.compress.model_dump(mode="json", exclude={"seed", "student", "teacher"})
    return {
        "schema": SCHEMA,
        "name": run.path.resolve().name,
        "recipe": run.recipe.name,
        "seed": run.compress.seed,
        "settings": settings,
        "data": student["data"],
        "teacher": _network(teacher, TEACHER, latencies, target),
        "student": _network(student, STUDENT, latencies, target),
        "latency_ratio": {
            engine: latencies.ratio((STUDENT, engine), (TEACHER, engine)) for engine in ENGINES
        },
        "latency_conditions": conditions(),
        "variants": {
            key: {
                "bytes": len(bundle.model_bytes(key)),
                "accuracy": figures(variant.accuracy or {}),
                "engines": {
                    engine: _variant(key, engine, metrics, latencies)
                    for engine, metrics in variants.get(key, {}).items()
                },
            }
            for key, variant in bundle.manifest.variants.items()
        },
        "seconds": stage_seconds(run.path),
        **provenance(),
        "command": begun["command"],
    }


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """The headline figures of the tasks that a metric JSON has."""
    return {
        task: {name: metrics[task][name] for name in names}
        for task, names in FIGURES.items()
        if task in metrics
    }


def stage_seconds(folder: Path) -> dict[str, float]:
    """Time spent in every stage that is done."""
    paths = sorted((folder / MARKERS_FOLDER).glob("*.json"))
    markers = {path.stem: json.loads(path.read_text()) for path in paths}
    return {name: marker["seconds"] for name, marker in markers.items() if marker["done"]}


def _network(
    metrics: dict[str, Any], name: str, latencies: Latencies, target: str
) -> dict[str, Any]:
    by_engine = {engine: latencies.summary((name, engine)) for engine in ENGINES}
    return {
        "name": metrics["model"]["name"],
        "sha256": metrics["model"]["sha256"],
        **figures(metrics),
        "params": metrics["params"],
        "gmacs": metrics["gmacs"],
        "latency_ms": by_engine[target]["p50"],
        "latency_ms_by_engine": {engine: one["p50"] for engine, one in by_engine.items()},
        "latency_p95_ms_by_engine": {engine: one["p95"] for engine, one in by_engine.items()},
    }


def _variant(
    variant: str, engine: str, metrics: dict[str, Any], latencies: Latencies
) -> dict[str, Any]:
    key: Key = (variant, engine)
    return {
        **figures(metrics),
        "latency_ms": latencies.summary(key)["p50"],
        "ratio_to_fp32": latencies.ratio(key, (STUDENT, engine)),
    }

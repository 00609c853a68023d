"""Quantised variants into the bundle of their network."""

from collections.abc import Mapping
from pathlib import Path

from mtc_perception.core.bundle import (
    SCHEMA_VERSION,
    Bundle,
    LineageStep,
    Manifest,
    Variant,
    sha256_hex,
    write_bundle,
)
from mtc_perception.util.progress import Count
from offline_compress.evaluation.metrics_file import accuracy
from offline_compress.export import network_of
from offline_compress.quantization.assess import FP32, TIMED_ON, assessment_of, networks_of, timings
from offline_compress.quantization.quantise import QuantisedGraph
from offline_compress.recipe.compression import QuantisedVariant


def add_variants(
    bundle: Bundle,
    variants: Mapping[QuantisedVariant, QuantisedGraph],
    out: Path,
    measured_on: str,
    count: Count = lambda _done, _total: None,
) -> Manifest:
    """Time further variants of a bundle's network, and write it with them to `out`.

    `measured_on` says what their accuracy was measured on. Variants of the same name are replaced.
    Returns the manifest written.
    """
    old = bundle.manifest
    fp32 = next(entry.sha256 for key, entry in old.variants.items() if key == "fp32")
    beside = {key: one for key, one in networks_of(bundle).items() if key[0] == FP32}
    networks = beside | {
        (key, engine): network_of(made.graph, made.precision)
        for key, made in variants.items()
        for engine in made.engines
        if engine in TIMED_ON
    }
    timed = timings(networks, count) if variants else {}
    files = {entry.file: bundle.model_bytes(key) for key, entry in old.variants.items()}
    entries = dict(old.variants)
    for key, made in variants.items():
        file = f"model.{key}.onnx"
        files[file] = made.graph
        entries[key] = Variant(
            file=file,
            sha256=sha256_hex(made.graph),
            precision=made.precision,
            engines=list(made.engines),
            accuracy=accuracy(made.report["metrics"]),
            assessment=assessment_of(
                measured_on,
                made.report["loss_points"],
                made.report["tolerance"],
                timed.get(key, []),
            ),
        )
    manifest = old.model_copy(
        update={
            "schema_version": SCHEMA_VERSION,
            "variants": entries,
            "lineage": [
                *(step for step in old.lineage if not _is_of(step, variants)),
                *(_step(key, made, fp32) for key, made in variants.items()),
            ],
            "exporter": old.exporter
            | {tool: at for made in variants.values() for tool, at in made.report["tool"].items()},
            "self_test": old.self_test | {key: made.self_test for key, made in variants.items()},
        }
    )
    write_bundle(out, manifest, files)
    return manifest


def _step(variant: str, made: QuantisedGraph, fp32: str) -> LineageStep:
    report = made.report
    how = "float16 weights and arithmetic"
    if "layers" in report:
        how = (
            f"static calibration on {report['frames']} training frames, "
            f"{report['layers'] - len(report['kept'])} convolutions in int8"
        )
        if report["kept"]:
            how += f", the {len(report['kept'])} most sensitive ones in float"
    tools = " ".join(f"{name} {version}" for name, version in report["tool"].items())
    return LineageStep(
        step="quantize",
        detail=f"{variant}: {how}; made by {tools}, accuracy on {report['tested_on']}; the fp32"
        " graph's sha256",
        sha256=fp32,
        accuracy=accuracy(report["metrics"]),
    )


def _is_of(step: LineageStep, variants: Mapping[QuantisedVariant, QuantisedGraph]) -> bool:
    """Whether a step made one of the variants that are about to be replaced."""
    return step.step == "quantize" and step.detail.split(":")[0] in variants

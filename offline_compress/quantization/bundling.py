"""Quantised variants into the bundle of their network."""

from collections.abc import Mapping
from pathlib import Path

from mtc_perception.core.bundle import (
    Bundle,
    LineageStep,
    Manifest,
    Variant,
    sha256_hex,
    write_bundle,
)
from offline_compress.evaluation.metrics_file import accuracy
from offline_compress.quantization.quantise import QuantisedGraph
from offline_compress.recipe.compression import QuantisedVariant


def add_variants(
    bundle: Bundle, variants: Mapping[QuantisedVariant, QuantisedGraph], out: Path
) -> Manifest:
    """Write `bundle` with further variants of its network to `out`; returns the manifest written.

    What it has already stays first: that is what runs unless another precision is asked for.
    Variants of the same name are replaced.
    """
    old = bundle.manifest
    fp32 = next(entry.sha256 for key, entry in old.variants.items() if key == "fp32")
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
        )
    manifest = old.model_copy(
        update={
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

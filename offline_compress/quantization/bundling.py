"""Quantised variants into the bundle of their network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mtc_perception.core.bundle import (
    SCHEMA_VERSION,
    Bundle,
    LineageStep,
    Manifest,
    Variant,
    sha256_hex,
    write_bundle,
)
from mtc_perception.core.class_map import ClassMap
from mtc_perception.datasets.layout import Sample
from mtc_perception.util.progress import Count, NamedCount
from offline_compress.data.labelled import evenly, labelled_sets
from offline_compress.evaluation.metrics_file import accuracy
from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS
from offline_compress.export import network_of
from offline_compress.quantization.activation_ranges import calibration_frames
from offline_compress.quantization.assess import FP32, TIMED_ON, assessment_of, networks_of, timings
from offline_compress.quantization.quantise import QuantisedGraph, evaluator, quantise
from offline_compress.recipe.compression import Quantisation, QuantisedVariant
from offline_compress.recipe.parts import DataSource


@dataclass(frozen=True, slots=True)
class Judges:
    """The labelled images that variants are judged by."""

    sets: Mapping[str, Sequence[Sample]]
    """Of each data set, by its name."""
    words: str
    """Which they are, for people."""

    @classmethod
    def of(cls, sources: Sequence[DataSource], most: int, classes: ClassMap) -> "Judges":
        """At most `most` images of each source, at even distances. Raises as `labelled_sets`."""
        sets = {
            name: evenly([one for one in samples if one.labelled], most)
            for name, samples in labelled_sets(sources, "judge variants by", classes).items()
        }
        words = "; ".join(
            f"{source.title}, {len(samples)} images"
            for source, samples in zip(sources, sets.values(), strict=True)
        )
        return cls(sets, words)


def add_quantised(
    bundle: Bundle,
    calibration: Sequence[Sample],
    judges: Judges,
    settings: Quantisation,
    out: Path,
    count: NamedCount,
) -> dict[QuantisedVariant, dict[str, Any]]:
    """Make the variants of `settings` of a bundle's fp32 graph, int8 calibrated on images of
    `calibration`, and write the bundle with them to `out`, which may be its own place.

    Returns the report of each variant, JSON. Raises BundleError if there is no fp32 variant, and
    UserError if a runtime does not run a variant.
    """
    made: dict[QuantisedVariant, QuantisedGraph] = {}
    if settings.variants:
        made = quantise(
            bundle.model_bytes(FP32),
            list(calibration_frames(calibration, bundle.manifest.input.size)),
            settings.variants,
            evaluator(judges.sets, CHECKPOINT_THRESHOLDS, bundle.manifest),
            settings,
            count,
        )
    add_variants(bundle, made, out, judges.words, partial(count, "timing"))
    return {variant: graph.report for variant, graph in made.items()}


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

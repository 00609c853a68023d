"""Accuracy of networks in a pipeline: every one by the same code, at the same thresholds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtc_perception.core.bundle import Bundle
from mtc_perception.core.engine import Network
from mtc_perception.datasets.layout import Sample, read_split
from mtc_perception.engines.open import load_engine
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import NamedCount
from offline_compress.evaluation.evaluation import evaluate_subject
from offline_compress.evaluation.latency import THREADS
from offline_compress.evaluation.metrics_file import describe, result_json
from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS, Subject, open_subject
from offline_compress.export import detections_per_image, onnx_graph
from offline_compress.models.registry import load_checkpoint, load_spec
from offline_compress.recipe.parts import DataSource


def labelled_samples(source: DataSource) -> list[Sample]:
    """The samples of a split. Raises LayoutError, and UserError if none of them is labelled."""
    samples = read_split(source.root, source.split)
    if not any(sample.labelled for sample in samples):
        raise UserError(
            f"split {source.split} of {source.root} has no labels to evaluate on: "
            f"`mtc-compress check-data {source.root}` tells what is there"
        )
    return samples


def checkpoint_metrics(checkpoint: Path, source: DataSource, count: NamedCount) -> dict[str, Any]:
    """The metric JSON of a checkpoint in PyTorch, as `mtc-compress evaluate` writes it."""
    return _metrics(open_subject(checkpoint), source, checkpoint.parent.name, count)


def variant_metrics(
    bundle: Bundle, variant: str, engine: str, source: DataSource, count: NamedCount
) -> dict[str, Any]:
    """The same of one variant of a bundle on an engine, at a checkpoint's neutral thresholds."""
    with _open_variant(bundle, variant, engine) as subject:
        return _metrics(subject, source, f"{variant} on {engine}", count)


def _metrics(subject: Subject, source: DataSource, what: str, count: NamedCount) -> dict[str, Any]:
    samples = labelled_samples(source)

    def counted() -> Iterator[Sample]:
        for done, sample in enumerate(samples):
            count(f"evaluating {what}", done, len(samples))
            yield sample

    evaluation = evaluate_subject(subject, counted())
    # Speed is measured by itself, all networks in turn (`evaluation/latency.py`).
    description = describe(subject, source.root, source.split, None)
    return result_json(subject, evaluation, None, description)


def fp32_network(checkpoint: Path) -> Network:
    """The deployable fp32 graph of a checkpoint, for engines. Raises UserError."""
    spec, model = load_spec(checkpoint), load_checkpoint(checkpoint)
    height, width = spec.height, spec.width
    detections = detections_per_image(model, height, width)
    return Network(onnx_graph(model, height, width), "fp32", height, width, detections)


@contextmanager
def _open_variant(bundle: Bundle, variant: str, engine: str) -> Iterator[Subject]:
    manifest = bundle.manifest
    sha256 = next(one.sha256 for key, one in manifest.variants.items() if key == variant)
    loaded = load_engine(Network.of(bundle, variant), engine, THREADS)
    try:
        yield Subject(
            engine=loaded,
            engine_reason="the pipeline evaluates every engine that runs here",
            thresholds=CHECKPOINT_THRESHOLDS,
            max_detections=manifest.max_detections,
            classes=manifest.classes,
            params=manifest.params,
            gmacs=manifest.gmacs,
            identity={
                "kind": "bundle",
                "name": manifest.name,
                "label": bundle.path.name.split(".mtc")[0],
                "version": manifest.version,
                "variant": variant,
                "sha256": sha256,
            },
        )
    finally:
        loaded.close()

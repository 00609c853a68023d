"""What variants of a bundle lose and gain beside fp32: the assessment that `auto` goes by."""

from collections.abc import Mapping

from mtc_perception.core.bundle import (
    SCHEMA_VERSION,
    Assessment,
    Bundle,
    Manifest,
    Timing,
    Variant,
    write_bundle,
)
from mtc_perception.core.engine import Network
from mtc_perception.engines.cpu import cpu_class
from mtc_perception.engines.load import AUTO_ORDER
from mtc_perception.engines.process_trial import ensure_tried
from mtc_perception.util.progress import Count, NamedCount
from offline_compress.evaluation.latency import Key, interleaved
from offline_compress.evaluation.metrics_file import accuracy
from offline_compress.quantization.quantise import Evaluate, Metrics, losses

FP32 = "fp32"
TIMED_ON = tuple(engine for engine in AUTO_ORDER if engine != "tensorrt")
"""TensorRT's engines are of one GPU: `mtc-engine bench` times them."""


def assess(
    bundle: Bundle,
    evaluate: Evaluate,
    measured_on: str,
    tolerance_points: float,
    count: NamedCount = lambda _what, _done, _total: None,
) -> Manifest:
    """Evaluate and time all variants of a bundle; returns its manifest with the assessment.

    Timings of other classes of machine stay. Raises BundleError if there is no fp32 variant to
    compare with, EngineError if an engine does not survive a variant.
    """
    entries = bundle.manifest.variants
    fp32 = bundle.variant(FP32)
    for (key, engine), network in networks_of(bundle).items():
        count(f"trying {key} on {engine}", 0, 1)
        ensure_tried(network, engine)  # type: ignore[arg-type]
    metrics: dict[str, Metrics] = {}
    for number, key in enumerate(entries):
        count(f"evaluating {key}", number, len(entries))
        metrics[key] = evaluate(key, bundle.model_bytes(key))
    timed = timings(networks_of(bundle), lambda done, total: count("timing", done, total))
    changed: dict[str, Variant] = {}
    for key, entry in entries.items():
        known = list(timed.get(key, ()))
        if entry.assessment:
            machine = cpu_class().name
            known += [one for one in entry.assessment.timings if one.machine != machine]
        lost = losses(metrics[FP32], metrics[key])
        assessment = assessment_of(measured_on, lost, tolerance_points, known)
        changed[key] = entry.model_copy(
            update={
                "accuracy": accuracy(metrics[key]),
                "assessment": None if entry is fp32 else assessment,
            }
        )
    return bundle.manifest.model_copy(
        update={"variants": changed, "schema_version": SCHEMA_VERSION}
    )


def assessment_of(
    measured_on: str, lost_points: Mapping[str, float], tolerance_points: float, timed: list[Timing]
) -> Assessment:
    """Assessment, with the verdict that its numbers give."""
    return Assessment(
        measured_on=measured_on,
        lost_points=dict(lost_points),
        tolerance_points=tolerance_points,
        within_tolerance=max(lost_points.values(), default=0.0) <= tolerance_points,
        timings=timed,
    )


def networks_of(bundle: Bundle) -> dict[Key, Network]:
    """Every variant on every engine of `TIMED_ON` that is for it."""
    return {
        (key, engine): Network.of(bundle, key)
        for key, variant in bundle.manifest.variants.items()
        for engine in TIMED_ON
        if engine in variant.engines
    }


def timings(networks: Mapping[Key, Network], count: Count) -> dict[str, list[Timing]]:
    """Times of variants (but fp32) beside fp32's on the same engine, on this class of machine."""
    latencies = interleaved(networks, count)
    machine = cpu_class().name
    found: dict[str, list[Timing]] = {}
    for variant, engine in networks:
        if variant != FP32 and (FP32, engine) in networks:
            timing = Timing(
                engine=engine,  # type: ignore[arg-type]
                machine=machine,
                median_ms=latencies.summary((variant, engine))["p50"],
                of_fp32=latencies.ratio((variant, engine), (FP32, engine)),
            )
            found.setdefault(variant, []).append(timing)
    return found


def verdicts(manifest: Manifest) -> list[str]:
    """A line for every variant that is assessed: what it lost, and what it takes."""
    lines = []
    for key, variant in manifest.variants.items():
        if assessment := variant.assessment:
            lost = max(assessment.lost_points.values(), default=0.0)
            times = [f", x {one.of_fp32:.2f} on {one.engine}" for one in assessment.timings]
            verdict = "within" if assessment.within_tolerance else "OUTSIDE"
            lines.append(f"{key}: {verdict} tolerance (at most {lost:+.2f} points){''.join(times)}")
    return lines


def write_assessed(bundle: Bundle, manifest: Manifest) -> None:
    """Put a manifest with assessment in the place of the bundle's own."""
    files = {entry.file: bundle.model_bytes(key) for key, entry in manifest.variants.items()}
    write_bundle(bundle.path, manifest, files)

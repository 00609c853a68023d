"""The stages that turn the student into a bundle and measure it; the first process does them."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from mtc_perception.core.bundle import Bundle, read_bundle
from mtc_perception.core.engine import Network
from mtc_perception.engines.load import load_engine
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import Progress
from offline_compress.data.labelled import labelled_sets
from offline_compress.evaluation.accuracy import evaluate_subject
from offline_compress.evaluation.latency import Key, interleaved
from offline_compress.evaluation.metrics_file import (
    accuracy,
    data_words,
    describe,
    mean_result_json,
    recommended_thresholds,
    result_json,
    write_result,
)
from offline_compress.evaluation.subject import (
    CHECKPOINT_THRESHOLDS,
    Subject,
    open_subject,
    subject_of,
)
from offline_compress.export import deployed, export_bundle
from offline_compress.importance.calibration import calibration_samples
from offline_compress.models.registry import load_checkpoint, load_spec
from offline_compress.pipeline.folder import RunFolder, RunStage, weights
from offline_compress.pipeline.row import ENGINES, STUDENT, TEACHER, row, stage_seconds
from offline_compress.pipeline.stages import MARKERS_FOLDER, digest_of
from offline_compress.quantization.bundling import Judges, add_quantised
from offline_compress.recipe.parts import DataSource

MANIFEST = "manifest.json"
EVALUATED_FILE = "evaluated"
"""Beside the markers: what the metrics are of, and which are there. Another setting alone gives a
new row only."""


class Export(RunStage):
    """Evaluate the student's checkpoint, and export it with the thresholds that suit it best."""

    name = "export"
    parallel = False

    @property
    def _metrics(self) -> Path:
        return self._run.metrics / "student.json"

    def inputs(self) -> dict[str, Any]:
        """The student and what it is evaluated on."""
        return {
            "student": digest_of(weights(self._run.student)),
            "name": self._run.student_name,
            **self._run.recipe.model_dump(mode="json", include={"validate_on", "tune_on"}),
        }

    def made(self) -> list[Path]:
        """The bundle's files, and the metrics."""
        return [*bundle_files(self._run.exported), self._metrics]

    def work(self) -> list[Path]:
        """None."""
        return []

    def run(self) -> None:
        """Write both."""
        run, recipe = self._run, self._run.recipe
        metrics = export_evaluated(
            run.student, run.exported, recipe.validate_on, recipe.tuning, run.student_name
        )
        run.metrics.mkdir(exist_ok=True)
        write_result(self._metrics, metrics)


class Quantise(RunStage):
    """Add the variants of lower precision to the bundle."""

    name = "quantise"
    parallel = True
    """Calibration images are found together; the rest is the first process's."""

    def inputs(self) -> dict[str, Any]:
        """The bundle, and what the variants are calibrated on."""
        run = self._run
        return {
            "bundle": digest_of(run.exported / MANIFEST),
            "train": [source.model_dump(mode="json") for source in run.recipe.train],
            "quantise": run.compress.quantise.model_dump(mode="json"),
            **run.recipe.model_dump(mode="json", include={"validate_on"}),
        }

    def made(self) -> list[Path]:
        """The bundle's files, and how they were made."""
        return [*bundle_files(self._run.bundle), self._run.quantised]

    def work(self) -> list[Path]:
        """None."""
        return []

    def run(self) -> None:
        """Write both. Raises UserError if a runtime does not run a variant."""
        run, settings = self._run, self._run.compress.quantise
        images = calibration_samples(run.recipe, settings.images)
        if not PartialState().is_main_process:
            return
        judges = Judges.of(run.recipe.validate_on, settings.judged_images, run.recipe.class_map)
        exported = read_bundle(run.exported)
        with Progress(alone=True) as progress:
            reports = add_quantised(exported, images, judges, settings, run.bundle, progress.count)
        write_text_atomic(run.quantised, json.dumps(reports, indent=2) + "\n")


class Evaluate(RunStage):
    """Evaluate the teacher and every variant, time all of them in turn, and write the row."""

    name = "evaluate"
    parallel = False

    def inputs(self) -> dict[str, Any]:
        """The networks, what they are evaluated on, and what the row says of the run."""
        return self._evaluated() | {
            "compress": self._run.compress.model_dump(mode="json", exclude={"teacher"}),
            "command": self._run.begun()["command"],
        }

    def _evaluated(self) -> dict[str, Any]:
        """What the metrics depend on."""
        return {
            "teacher": digest_of(weights(self._run.teacher)),
            "student": digest_of(weights(self._run.student)),
            "bundle": digest_of(self._run.bundle / MANIFEST),
            **self._run.recipe.model_dump(mode="json", include={"validate_on"}),
        }

    def made(self) -> list[Path]:
        """The row."""
        return [self._run.result]

    def work(self) -> list[Path]:
        """None: metrics of other networks are written over one by one."""
        return []

    def run(self) -> None:
        """Write metrics/*.json one by one, then the row."""
        run, begin_s = self._run, time.monotonic()
        measured = Measured(run.path / MARKERS_FOLDER / EVALUATED_FILE, self._evaluated())
        sources = run.recipe.validate_on
        bundle = read_bundle(run.bundle)
        with Progress(alone=True) as progress:
            teacher = measured(
                run.metrics / "teacher.json",
                partial(_checkpoint_metrics, run.teacher, sources, progress),
            )
            variants: dict[str, dict[str, dict[str, Any]]] = {}
            for variant, engine in runnable(bundle):
                found = measured(
                    run.metrics / f"{variant}-{engine}.json",
                    partial(_variant_metrics, bundle, variant, engine, sources, progress),
                )
                variants.setdefault(variant, {})[engine] = found
            networks = latency_networks(run, bundle)
            latencies = interleaved(networks, partial(progress.count, "timing"))
        student = json.loads((run.metrics / "student.json").read_text())
        seconds = stage_seconds(run.path)
        seconds[self.name] = round(seconds[self.name] + time.monotonic() - begin_s, 1)
        write_result(run.result, row(run, teacher, student, variants, bundle, latencies, seconds))
        measured.remove_others({run.metrics / "student.json"})


def export_evaluated(
    checkpoint: Path,
    out: Path,
    validate_on: Sequence[DataSource],
    tune_on: Sequence[DataSource],
    name: str | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on `validate_on` and export it to `out`, with the thresholds that suit
    it best on `tune_on`; returns the metric JSON. `name` defaults to that of `out`."""
    with Progress(alone=True) as progress:
        metrics = tuned = _checkpoint_metrics(checkpoint, validate_on, progress)
        if tune_on != validate_on:
            tuned = _checkpoint_metrics(checkpoint, tune_on, progress)
    thresholds = CHECKPOINT_THRESHOLDS.model_copy(update=recommended_thresholds(tuned))
    export_bundle(checkpoint, out, thresholds, accuracy(metrics), name, data_words(tuned))
    return metrics


def bundle_files(bundle: Path) -> list[Path]:
    """The manifest of a bundle, and the graphs that are there."""
    return [bundle / MANIFEST, *sorted(bundle.glob("*.onnx"))]


def runnable(bundle: Bundle) -> list[tuple[str, str]]:
    """Variants with their engines, of those that are here. fp32 alone is the checkpoint itself."""
    variants = bundle.manifest.variants
    if len(variants) == 1:
        return []
    return [
        (key, engine)
        for key, variant in variants.items()
        for engine in ENGINES
        if engine in variant.engines
    ]


def latency_networks(run: RunFolder, bundle: Bundle) -> dict[Key, Network]:
    """The teacher, the student, and the student's variants, on every engine that runs them."""
    spec = load_spec(run.teacher)
    teacher = deployed(load_checkpoint(run.teacher), spec.height, spec.width)
    fp32 = Network.of(bundle, STUDENT)
    networks: dict[Key, Network] = {}
    for engine in ENGINES:
        networks[TEACHER, engine] = teacher
        networks[STUDENT, engine] = fp32
    for variant, engine in runnable(bundle):
        networks[variant, engine] = Network.of(bundle, variant)
    return networks


def _checkpoint_metrics(
    checkpoint: Path, sources: Sequence[DataSource], progress: Progress
) -> dict[str, Any]:
    """The metric JSON of a checkpoint in PyTorch, as `mtc-compress evaluate` writes it."""
    return _metrics(open_subject(checkpoint), sources, checkpoint.parent.name, progress)


def _variant_metrics(
    bundle: Bundle, variant: str, engine: str, sources: Sequence[DataSource], progress: Progress
) -> dict[str, Any]:
    """The same of one variant of a bundle on an engine, at a checkpoint's neutral thresholds."""
    why = "the pipeline evaluates every engine that runs here"
    with closing(load_engine(Network.of(bundle, variant), engine)) as loaded:
        subject = subject_of(bundle, variant, loaded, why, CHECKPOINT_THRESHOLDS)
        return _metrics(subject, sources, f"{variant} on {engine}", progress)


def _metrics(
    subject: Subject, sources: Sequence[DataSource], what: str, progress: Progress
) -> dict[str, Any]:
    # Speed is measured by itself, all networks in turn.
    evaluations, results = {}, {}
    sets = labelled_sets(sources, "evaluate on")
    for source, (name, samples) in zip(sources, sets.items(), strict=True):
        counted = progress.track(samples, f"evaluating {what} on {name}", unit="img")
        evaluations[name] = evaluate_subject(subject, counted)
        description = describe(subject, [source.root], source.split, None)
        results[name] = result_json(subject, evaluations[name], None, description)
    splits = ", ".join(dict.fromkeys(source.split for source in sources))
    whole = describe(subject, [source.root for source in sources], splits, None)
    return mean_result_json(subject, evaluations, results, None, whole)


class Measured:
    """Metric files of one evaluation, each measured once however often that is interrupted."""

    def __init__(self, note: Path, of: dict[str, Any]) -> None:
        """`note` is a file that keeps what the metrics are `of`, and which are measured."""
        self._note, self._of = note, of
        self._paths: list[Path] = []
        """In the order in which they were asked for."""
        try:
            noted = json.loads(note.read_text())
        except (OSError, ValueError):
            noted = {}
        same = isinstance(noted, dict) and noted.get("of") == of
        self._done: list[str] = noted["measured"] if same else []

    def __call__(self, path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What an earlier, killed process has measured, or measure it now."""
        self._paths.append(path)
        if path.name not in self._done or not path.exists():
            write_result(path, measure())
            self._done.append(path.name)
            note = {"of": self._of, "measured": self._done}
            write_text_atomic(self._note, json.dumps(note) + "\n")
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    def remove_others(self, kept: set[Path]) -> None:
        """Remove the metrics of variants that are no more."""
        for path in {one for used in self._paths for one in used.parent.glob("*.json")}:
            if path not in kept and path not in self._paths:
                path.unlink()

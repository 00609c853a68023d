"""`mtc-compress evaluate`: measure accuracy and speed of a bundle or checkpoint."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[Path, typer.Argument(help="Bundle, or checkpoint folder, e.g. RUN/best.")],
    data: Annotated[
        list[Path],
        typer.Option(
            help="Data set, of any layout in docs/data.md; of several, each and the mean over them."
        ),
    ],
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "val",
    engine: Annotated[
        str, typer.Option(help="auto, tensorrt, openvino or onnxruntime, for a bundle.")
    ] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 or int8; default: the fastest within tolerance.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Detection threshold to use instead.")
    ] = None,
    drivable: Annotated[
        float | None, typer.Option(min=0, max=1, help="Drivable-area threshold to use instead.")
    ] = None,
    lane: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lane threshold to use instead.")
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, help="Boxes of an image that count; default: 100.")
    ] = None,
    conditions: Annotated[
        Path | None,
        typer.Option(help="YAML of conditions by file name, as config/conditions/camvid.yaml."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for metrics.json, evidence.npz and report.html (of several data sets one "
            "each below it); default: under out/evaluate."
        ),
    ] = None,
) -> None:
    """Measure accuracy and speed, and show the best and worst frames.

    An image that cannot be decoded is a miss of all that is labelled in it, as on the vehicle; if
    there is no other one, the exit code is 1.

    Example: [bold]mtc-compress evaluate models/mtc_nano.mtc --data DATA/camvid[/bold]
    """
    from rich.console import Console

    from mtc_perception.util.progress import Progress
    from offline_compress.data.labelled import labels_in_words, require_classes, source_samples
    from offline_compress.evaluation.accuracy import evaluate_subject
    from offline_compress.evaluation.conditions import read_conditions, with_conditions
    from offline_compress.evaluation.evaluation_report import result_tables, title_of, write_report
    from offline_compress.evaluation.evidence_file import EVIDENCE_FILE, write_evidence
    from offline_compress.evaluation.metrics_file import (
        RESULT_FILE,
        describe,
        mean_result_json,
        result_folder,
        result_json,
        write_result,
    )
    from offline_compress.evaluation.speed import measure_speed
    from offline_compress.evaluation.subject import open_subject
    from offline_compress.ready import require_data
    from offline_compress.recipe.parts import DataSource, set_names

    sources = [DataSource(root=root, split=split) for root in data]
    require_data(sources)
    data = [source.root for source in sources]
    known = read_conditions(conditions) if conditions else {}
    sets = {
        name: list(with_conditions(source_samples(source)[:limit], known))
        for name, source in zip(set_names(sources), sources, strict=True)
    }
    subject = open_subject(model, engine, precision, drivable, lane, score, max_detections)
    for root, samples in zip(data, sets.values(), strict=True):
        require_classes(samples, subject.class_map, root)
    description = describe(subject, data, split, limit, model)
    out = result_folder(description, out)
    engine_words = f"{subject.engine.precision} on {subject.engine.name}, {subject.engine.device}"
    print(f"{model}: {engine_words}")
    for name, samples in sets.items():
        print(f"{name}: {labels_in_words(samples)}")
    with Progress(keep=True) as progress:
        evaluations = {
            name: evaluate_subject(
                subject, progress.track(samples, f"evaluating {name}", unit="img")
            )
            for name, samples in sets.items()
        }
        for name, evaluation in evaluations.items():
            if all(frame.unreadable for frame in evaluation.frames):
                # Nothing was measured: what is there of a better try stays.
                images = len(sets[name])
                print(f"error: none of {images} images could be answered", file=sys.stderr)
                raise typer.Exit(1)
        # The last image is still in the engine's input.
        speed = measure_speed(subject.engine, progress.counter("timing"))
        results, written = {}, []
        for root, (name, evaluation) in zip(data, evaluations.items(), strict=True):
            folder = out / name if len(data) > 1 else out
            folder.mkdir(parents=True, exist_ok=True)
            results[name] = result_json(
                subject,
                evaluation,
                speed,
                describe(subject, [root], split, limit, model),
                progress.counter("scoring"),
            )
            write_result(folder / RESULT_FILE, results[name])
            frames = evaluation.frames
            write_evidence(
                folder / EVIDENCE_FILE,
                [frame.sample.stem for frame in frames],
                [frame.evidence for frame in frames],
                [frame.sample.attributes for frame in frames],
            )
            report = folder / "report.html"
            write_report(report, subject, evaluation, results[name], progress.counter("drawing"))
            written.append(report)
        result = mean_result_json(subject, evaluations, results, speed, description)
        write_result(out / RESULT_FILE, result)
    print(title_of(result))
    for table in result_tables(result):
        Console().print(table)
    print(", ".join(map(str, [out / RESULT_FILE, *written])))

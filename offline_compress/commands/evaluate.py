"""`mtc-compress evaluate`: measure accuracy and speed of a bundle or checkpoint."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[Path, typer.Argument(help="Bundle, or checkpoint folder, e.g. RUN/best.")],
    data: Annotated[Path, typer.Option(help="Data set, of any layout in docs/data.md.")],
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
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for metrics.json and report.html; default: under out/evaluate."),
    ] = None,
) -> None:
    """Measure accuracy and speed, and show the best and worst frames.

    An image that cannot be decoded is a miss of all that is labelled in it, as on the vehicle; if
    there is no other one, the exit code is 1.

    Example: [bold]mtc-compress evaluate models/mtc_nano.mtc --data DATA/camvid[/bold]
    """
    from rich.console import Console

    from mtc_perception.util.progress import Progress
    from offline_compress.data.labelled import require_classes, source_samples
    from offline_compress.evaluation.accuracy import evaluate_subject
    from offline_compress.evaluation.evaluation_report import result_tables, title_of, write_report
    from offline_compress.evaluation.metrics_file import (
        RESULT_FILE,
        describe,
        result_folder,
        result_json,
        write_result,
    )
    from offline_compress.evaluation.speed import measure_speed
    from offline_compress.evaluation.subject import open_subject
    from offline_compress.recipe.parts import DataSource

    samples = source_samples(DataSource(root=data, split=split))[:limit]
    subject = open_subject(model, engine, precision, drivable, lane, score, max_detections)
    require_classes(samples, subject.classes, data)
    description = describe(subject, data, split, limit, model)
    out = result_folder(description, out)
    with Progress(keep=True) as progress:
        evaluation = evaluate_subject(subject, progress.track(samples, "evaluating", unit="img"))
        if all(frame.unreadable for frame in evaluation.frames):
            # Nothing was measured: what is there of a better try stays.
            print(f"error: none of {len(samples)} images could be answered", file=sys.stderr)
            raise typer.Exit(1)
        # The last image is still in the engine's input.
        speed = measure_speed(subject.engine, progress.counter("timing"))
        result = result_json(subject, evaluation, speed, description, progress.counter("scoring"))
        out.mkdir(parents=True, exist_ok=True)
        write_result(out / RESULT_FILE, result)
        write_report(out / "report.html", subject, evaluation, result, progress.counter("drawing"))
    print(title_of(result))
    for table in result_tables(result):
        Console().print(table)
    print(f"{out / RESULT_FILE}, {out / 'report.html'}")

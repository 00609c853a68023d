"""`mtc-compress`: the offline commands. Each command only parses and prints; work lives beside."""

from pathlib import Path
from typing import Annotated

import typer

from mtc_perception.util.command_line import run_app
from offline_compress.commands import compress as commands
from offline_compress.commands.check_data import check_data
from offline_compress.commands.synth import synth_app

app = typer.Typer(
    name="mtc-compress",
    help="Train, evaluate, compress and export multi-task perception networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(synth_app, name="synth")
app.command("check-data")(check_data)
for compression in (
    commands.run,
    commands.prune,
    commands.distill,
    commands.quantize,
    commands.report,
):
    app.command()(compression)


@app.command()
def train(
    recipe: Annotated[Path, typer.Option(help="Recipe YAML, see config/recipes/.")],
    changes: commands.SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of checkpoints, state and logs; default: runs/RECIPE'S NAME."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each process; default: PyTorch's.")
    ] = None,
) -> None:
    """Train a network; the same command resumes an interrupted run exactly.

    Example: [bold]mtc-compress train --recipe config/recipes/mtc_nano.yaml[/bold]
    """
    from offline_compress.recipe.recipe import load_recipe

    loaded = load_recipe(recipe, changes or ())  # before the imports that take seconds
    import torch

    from offline_compress.training.stopping import Interrupted
    from offline_compress.training.trainer import Trainer

    out = out or Path("runs") / loaded.name
    trainer = Trainer(loaded, out)
    if threads:  # not before: Accelerate sets a number of its own
        torch.set_num_threads(threads)
    main_process = trainer.accelerator.is_main_process
    if trainer.step and main_process:
        print(f"resuming {out} at step {trainer.step} of {trainer.schedule.steps}")
    try:
        trainer.run()
    except Interrupted as interrupted:
        raise typer.Exit(128 + interrupted.signal) from None
    trainer.accelerator.end_training()
    if main_process:
        print(f"done: {out / 'best'}")


@app.command()
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

    Example: [bold]mtc-compress evaluate models/mtc_nano.mtc --data DATA/camvid[/bold]
    """
    from rich.console import Console

    from mtc_perception.datasets.layout import read_split
    from mtc_perception.util.progress import Progress
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

    samples = read_split(data, split)[:limit]
    subject = open_subject(model, engine, precision, drivable, lane, score, max_detections)
    description = describe(subject, data, split, limit)
    out = result_folder(description, out)
    with Progress(keep=True) as progress:
        evaluation = evaluate_subject(subject, progress.track(samples, "evaluating", unit="img"))
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


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, e.g. RUN/best.")],
    out: Annotated[Path, typer.Argument(help="Bundle to write: NAME.mtc, or NAME.mtc.zip.")],
    metrics: Annotated[
        Path | None,
        typer.Option(
            help="metrics.json of `evaluate` on this checkpoint: gives the thresholds, and is "
            "recorded in the manifest."
        ),
    ] = None,
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Detection threshold; default: best F1.")
    ] = None,
    drivable: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Drivable-area threshold; default: best mIoU."),
    ] = None,
    lane: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lane threshold; default: best IoU.")
    ] = None,
) -> None:
    """Export a checkpoint as the bundle that engines and the node run.

    Without --metrics the thresholds are 0.3 (score) and 0.5 (masks) unless given.

    Example: [bold]mtc-compress export RUN/best mtc_nano.mtc --metrics OUT/metrics.json[/bold]
    """
    from offline_compress.evaluation.metrics_file import (
        accuracy,
        metrics_of_checkpoint,
        recommended_thresholds,
    )
    from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS
    from offline_compress.export import export_bundle

    result = metrics_of_checkpoint(metrics, checkpoint) if metrics else {}
    given = {"score": score, "drivable": drivable, "lane": lane}
    by_hand = {name: value for name, value in given.items() if value is not None}
    thresholds = CHECKPOINT_THRESHOLDS.model_copy(update=recommended_thresholds(result) | by_hand)
    manifest = export_bundle(checkpoint, out, thresholds, accuracy(result) if metrics else None)
    print(
        f"{out}: {manifest.params / 1e6:.2f} M parameters, {manifest.gmacs:.2f} GMACs, thresholds "
        f"score {thresholds.score:g}, drivable {thresholds.drivable:g}, lane {thresholds.lane:g}"
    )


@app.command()
def assess(
    bundle: Annotated[Path, typer.Argument(help="Bundle; its manifest is written anew.")],
    data: Annotated[Path, typer.Option(help="Labelled data set.")],
    split: Annotated[str, typer.Option(help="Part of it.")] = "val",
    tolerance: Annotated[
        float, typer.Option(min=0, help="Points that no figure of a variant may lose.")
    ] = 0.3,
) -> None:
    """Measure what the variants of a bundle lose and gain beside fp32, and record it there.

    The node and replay take the fastest variant within tolerance. `run` and `quantize` record it
    of the bundles that they make.

    Example: [bold]mtc-compress assess models/mtc_nano.mtc --data data/camvid[/bold]
    """
    from mtc_perception.core.bundle import read_bundle
    from mtc_perception.util.progress import Progress
    from offline_compress.data.labelled import labelled_split
    from offline_compress.evaluation.latency import THREADS
    from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS
    from offline_compress.quantization import assess as assessment
    from offline_compress.quantization.quantise import evaluator
    from offline_compress.recipe.parts import DataSource

    found = read_bundle(bundle)
    samples = labelled_split(DataSource(root=data, split=split), "evaluate on")
    with Progress(alone=True) as progress:
        manifest = assessment.assess(
            found,
            evaluator(samples, CHECKPOINT_THRESHOLDS, THREADS),
            f"{data.name} {split}, {len(samples)} images",
            tolerance,
            progress.count,
        )
    assessment.write_assessed(found, manifest)
    for key, variant in manifest.variants.items():
        if evidence := variant.evidence:
            lost = max(evidence.lost_points.values(), default=0.0)
            times = [f"x {one.of_fp32:.2f} on {one.engine}" for one in evidence.timings]
            verdict = "within" if evidence.within_tolerance else "OUTSIDE"
            print(f"{key}: {verdict} tolerance (at most {lost:+.2f} points), {', '.join(times)}")


def main() -> None:
    """Console entry point."""
    run_app(app, extra="offline")


if __name__ == "__main__":
    main()

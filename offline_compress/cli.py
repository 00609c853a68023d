"""`mtc-compress`: the offline commands. Each command only parses and prints; work lives beside."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mtc_perception.errors import UserError
from offline_compress.data.synth_cli import synth_app

TASKS = {"detection", "drivable", "lane"}

app = typer.Typer(
    name="mtc-compress",
    help="Train, evaluate, compress and export multi-task perception networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(synth_app, name="synth")


@app.command()
def train(
    recipe: Annotated[Path, typer.Option(help="Recipe YAML, see config/recipes/.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of checkpoints, state and logs; default: runs/RECIPE'S NAME."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: all physical cores.")
    ] = None,
) -> None:
    """Train a network; the same command resumes an interrupted run exactly.

    Example: [bold]mtc-compress train --recipe config/recipes/mtc_nano.yaml[/bold]
    """
    import torch

    from offline_compress.evaluate import evaluate_network
    from offline_compress.recipe import load_recipe
    from offline_compress.train import Trainer

    if threads:
        torch.set_num_threads(threads)
    loaded = load_recipe(recipe)
    out = out or Path("runs") / loaded.name
    trainer = Trainer(
        loaded,
        out,
        lambda model, spec: evaluate_network(
            model, spec, loaded.validate_on.root, loaded.validate_on.split
        ),
    )
    if trainer.step:
        print(f"resuming {out} at step {trainer.step} of {trainer.steps}")
    trainer.run()
    print(f"done: {out / 'best'}")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Bundle, or checkpoint folder, e.g. RUN/best.")],
    data: Annotated[Path, typer.Option(help="Data set: images/, drivable/, lane/, det/.")],
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "val",
    engine: Annotated[
        str, typer.Option(help="auto, tensorrt, openvino or onnxruntime, for a bundle.")
    ] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 or int8; default: the bundle's preference.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    drivable: Annotated[
        float | None, typer.Option(min=0, max=1, help="Drivable-area threshold to use instead.")
    ] = None,
    lane: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lane threshold to use instead.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and report.html.")] = Path(
        "out/evaluate"
    ),
) -> None:
    """Measure accuracy, and show the best and worst frames.

    Example: [bold]mtc-compress evaluate models/mtc_nano.mtc --data DATA/camvid[/bold]
    """
    from rich.console import Console
    from rich.progress import track

    from mtc_perception.layout import read_split
    from offline_compress.evaluate import evaluate_subject, result_json, write_result
    from offline_compress.evaluation_report import result_table, title_of, write_report
    from offline_compress.subject import open_subject

    samples = read_split(data, split)[:limit]
    subject = open_subject(model, engine, precision, drivable, lane)
    evaluation = evaluate_subject(
        subject, track(samples, "evaluating", console=Console(stderr=True))
    )
    result = result_json(subject, evaluation, data, split)
    out.mkdir(parents=True, exist_ok=True)
    write_result(out / "metrics.json", result)
    write_report(out / "report.html", subject, evaluation, result)
    print(title_of(result))
    Console().print(result_table(result))
    print(f"{out / 'metrics.json'}, {out / 'report.html'}")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, e.g. RUN/best.")],
    out: Annotated[Path, typer.Argument(help="Bundle to write: NAME.mtc, or NAME.mtc.zip.")],
    metrics: Annotated[
        Path | None, typer.Option(help="metrics.json of `evaluate`, recorded in the manifest.")
    ] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Default detection threshold.")] = 0.3,
    drivable: Annotated[
        float, typer.Option(min=0, max=1, help="Default drivable-area threshold.")
    ] = 0.5,
    lane: Annotated[float, typer.Option(min=0, max=1, help="Default lane threshold.")] = 0.5,
) -> None:
    """Export a checkpoint as the bundle that engines and the node run.

    Example: [bold]mtc-compress export runs/mtc_nano/best mtc_nano.mtc[/bold]
    """
    from mtc_perception.bundle import Thresholds
    from offline_compress.export import export_bundle

    manifest = export_bundle(
        checkpoint,
        out,
        Thresholds(score=score, drivable=drivable, lane=lane),
        read_accuracy(metrics) if metrics else None,
    )
    print(f"{out}: {manifest.params / 1e6:.2f} M parameters, {manifest.gmacs:.2f} GMACs")


def read_accuracy(path: Path) -> dict[str, Any]:
    """The labelled tasks' part of a metrics file. Raises UserError if it cannot be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict) or not TASKS & content.keys():
        raise UserError(f"{path} is no metrics file of `mtc-compress evaluate`")
    return {task: value for task, value in content.items() if task in TASKS}


def main() -> None:
    """Console entry point: user mistakes become one line on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        # A full disk, a folder without permission: nothing that a traceback would explain better.
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()

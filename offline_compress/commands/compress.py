"""`mtc-compress run`, its parts `prune`, `distill` and `quantize`, and `report`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mtc_perception.util.errors import UserError
from mtc_perception.util.provenance import command_line

RecipeOption = Annotated[
    Path, typer.Option("--recipe", help="Recipe YAML with `compress`, see config/recipes/.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change the recipe, e.g. compress.prune.budget.parameters=0.3; may be repeated.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Folder of the run; default: runs/RECIPE'S NAME-compressed."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads of each process; default: PyTorch's."),
]
RedoOption = Annotated[
    bool,
    typer.Option(
        "--redo", help="Do again, in this folder, what a changed recipe changes of a finished run."
    ),
]
AllowMissedOption = Annotated[
    bool,
    typer.Option("--allow-missed", help="Exit code 0 also where the budget is not kept."),
]


def run(
    recipe: RecipeOption,
    changes: SetOption = None,
    out: OutOption = None,
    threads: ThreadsOption = None,
    redo: RedoOption = False,
    allow_missed: AllowMissedOption = False,
) -> None:
    """Compress a network: teacher, prune, recover, export, quantise, evaluate.

    The same command goes on where it was stopped.

    Exit code: 0 good, 1 the budget is not kept, 2 a mistake in what was asked for.

    Example: [bold]mtc-compress run --recipe config/recipes/mtc_s.yaml[/bold]
    """
    _run("evaluate", recipe, changes, out, threads, redo, allow_missed)


def prune(
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Recipe YAML with `compress`.")
    ] = None,
    changes: SetOption = None,
    out: OutOption = None,
    threads: ThreadsOption = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only choose: scores, predicted costs and a picture, no training."
        ),
    ] = False,
    plan: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="PLAN TEACHER",
            help="Instead of a recipe: cut the checkpoint TEACHER as plan.json says, into --out.",
        ),
    ] = None,
    redo: RedoOption = False,
    allow_missed: AllowMissedOption = False,
) -> None:
    """The stages of `run` up to the pruned network, a checkpoint not recovered yet.

    Example: [bold]mtc-compress prune --recipe config/recipes/mtc_s.yaml --dry-run[/bold]
    """
    if (recipe is None) == (plan is None):
        raise UserError("give --recipe, or --plan PLAN TEACHER")
    if plan:
        if out is None or changes or dry_run:
            raise UserError("--plan PLAN TEACHER goes with --out alone")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} is not empty; give another --out")
        from offline_compress.pruning.prune import replay

        replay(*plan, out)
        print(f"{out}: cut as in {plan[0]}, not trained since")
    elif recipe and dry_run:
        _dry_run(recipe, changes, out, threads)
    elif recipe:
        _run("prune", recipe, changes, out, threads, redo, allow_missed)


def distill(
    recipe: RecipeOption,
    changes: SetOption = None,
    out: OutOption = None,
    threads: ThreadsOption = None,
    redo: RedoOption = False,
    allow_missed: AllowMissedOption = False,
) -> None:
    """The stages of `run` up to the recovered student, a checkpoint.

    Example: [bold]mtc-compress distill --recipe config/recipes/mtc_s.yaml[/bold]
    """
    _run("recover", recipe, changes, out, threads, redo, allow_missed)


def quantize(
    network: Annotated[
        Path | None, typer.Argument(help="Instead of a recipe: a bundle, or a checkpoint's folder.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Recipe YAML with `compress`.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled data set that variants of NETWORK go by.")
    ] = None,
    split: Annotated[str, typer.Option(help="Part of it that variants are judged by.")] = "val",
    calibration_split: Annotated[
        str, typer.Option(help="Part of it that int8 is calibrated on.")
    ] = "train",
    changes: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of the recipe's run; default: runs/RECIPE'S NAME-compressed. Of NETWORK "
            "the bundle to write; default: a bundle in its own place.",
        ),
    ] = None,
    threads: ThreadsOption = None,
    redo: RedoOption = False,
    allow_missed: AllowMissedOption = False,
) -> None:
    """Give a network its fp16 and int8 variants.

    Of a recipe: the stages of `run` up to the bundle. Of a bundle or a checkpoint, pruned or not:
    int8 is calibrated on one part of a data set, what each variant loses is measured on another.
    A checkpoint becomes a bundle, with the thresholds that suit it best there.

    Examples: [bold]mtc-compress quantize runs/NAME/best --data DATA --out NAME.mtc[/bold]

    [bold]mtc-compress quantize NAME.mtc --data DATA --set compress.quantise.tolerance=1[/bold]

    [bold]mtc-compress quantize --recipe config/recipes/mtc_s.yaml[/bold]
    """
    if (recipe is None) == (network is None):
        raise UserError("give --recipe, or a bundle or checkpoint with --data")
    if recipe:
        if data:
            raise UserError("--data: a recipe says itself what variants go by")
        _run("quantise", recipe, changes, out, threads, redo, allow_missed)
    elif network:
        if threads or redo or allow_missed:
            raise UserError("--threads, --redo and --allow-missed go with --recipe")
        if data is None:
            raise UserError("--data is missing: the labelled data set that variants go by")
        _quantize_network(network, data, split, calibration_split, changes, out)


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of finished runs; the first is shown in detail."),
    ],
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Also write the table here, as results/compression.json."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The page; default: out/compression/NAMES OF THE RUNS.html."),
    ] = None,
) -> None:
    """Compare runs: a table over seeds, pictures, frames; one self-contained page.

    Example: [bold]mtc-compress report runs/mtc_s-compressed runs/ablation/xs/*[/bold]
    """
    import json

    from rich.console import Console

    from mtc_perception.util.differences import refuse_other
    from mtc_perception.util.files import write_text_atomic
    from mtc_perception.util.progress import Progress
    from offline_compress.report.compression_report import (
        names_in,
        settings_tables,
        terminal_table,
        write_report,
    )
    from offline_compress.report.compression_rows import compression_json, read_rows, settings_of

    runs, rows = read_rows(runs, lambda line: print(line, file=sys.stderr))
    names = [row["name"] for row in rows]
    out = out or Path("out", "compression", f"{'_'.join(names)[:80]}.html")
    for path, option in ((json_file, "--json"), (out, "--out")):
        if path and path.exists():
            refuse_other(path, {"runs": names_in(path)}, {"runs": names}, option)
    with Progress(alone=True) as progress:
        write_report(out, runs, rows, progress.count)
    for table in settings_tables(settings_of(rows)):
        Console().print(terminal_table(table))
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(json_file, json.dumps(compression_json(rows), indent=2) + "\n")
        print(json_file)
    print(out)


def _run(
    until: str,
    recipe: Path,
    changes: list[str] | None,
    out: Path | None,
    threads: int | None,
    redo: bool,
    allow_missed: bool,
) -> None:
    from offline_compress.recipe.recipe import load_recipe

    loaded = load_recipe(recipe, changes or ())  # before the imports that take seconds
    from offline_compress.pipeline.pipeline import run_pipeline
    from offline_compress.pipeline.row import short_of

    with stoppable():
        made = run_pipeline(loaded, out, _command(recipe, changes, out), until, threads, redo)
    if not made:
        return  # another process tells
    print(", ".join(str(path) for path in made))
    short = short_of(loaded, out, finished=until == "evaluate")
    for words in short.warnings:
        print(f"warning: {words}", file=sys.stderr)
    if short.missed and not allow_missed:
        raise typer.Exit(1)


def _quantize_network(
    network: Path,
    data: Path,
    split: str,
    calibration_split: str,
    changes: list[str] | None,
    out: Path | None,
) -> None:
    import tempfile

    from mtc_perception.core.bundle import read_bundle
    from offline_compress.evaluation.subject import checkpoint_folder
    from offline_compress.models.registry import load_spec
    from offline_compress.quantization.assess import verdicts
    from offline_compress.quantization.variant_data import VariantData, add_variants_of
    from offline_compress.recipe.parts import DataSource
    from offline_compress.recipe.recipe import quantisation

    if not network.exists():
        raise UserError(f"{network} does not exist; give a bundle or a checkpoint folder")
    checkpoint = checkpoint_folder(network)
    if checkpoint and out is None:
        raise UserError("--out is missing: the bundle that the checkpoint becomes, NAME.mtc")
    if out and out.exists():
        raise UserError(f"{out} exists: choose another --out, or remove it")
    settings = quantisation(changes or ())
    classes = (load_spec(checkpoint) if checkpoint else read_bundle(network).manifest).class_map
    images = VariantData.of(data, classes, split, calibration_split, settings)
    with tempfile.TemporaryDirectory() as folder:
        if checkpoint and out:
            from offline_compress.pipeline.delivery_stages import export_evaluated

            network = Path(folder, out.name)
            judged = [DataSource(root=data, split=split)]
            export_evaluated(checkpoint, network, judged, judged)
        manifest = add_variants_of(images, network, out)
    print(out or network, *verdicts(manifest), sep="\n")


def _dry_run(
    recipe: Path, changes: list[str] | None, out: Path | None, threads: int | None
) -> None:
    from offline_compress.recipe.recipe import load_recipe

    loaded = load_recipe(recipe, changes or ())
    from offline_compress.pipeline.pipeline import dry_run_pipeline

    with stoppable():
        print(dry_run_pipeline(loaded, out, threads))


@contextmanager
def stoppable() -> Iterator[None]:
    """A signal ends the command with a line and the signal's exit code."""
    from offline_compress.training.stopping import Interrupted, Terminated, terminable

    try:
        with terminable():
            yield
    except Interrupted as interrupted:
        raise typer.Exit(128 + interrupted.signal) from None
    except KeyboardInterrupt as stop:
        print("stopped; the same command goes on")
        raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None


def _command(recipe: Path, changes: list[str] | None, out: Path | None) -> str:
    """The whole run as a command line, whichever part of it was asked for."""
    words = ["mtc-compress", "run", "--recipe", str(recipe)]
    for change in changes or ():
        words += ["--set", change]
    if out:
        words += ["--out", str(out)]
    return command_line(words)

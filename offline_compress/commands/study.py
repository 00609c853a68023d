"""`mtc-compress study`: networks compared on drives that they never saw."""

from pathlib import Path
from typing import Annotated

import typer


def study(
    path: Annotated[Path, typer.Argument(metavar="STUDY", help="Study YAML, see config/studies/.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; default: runs/studies/ITS NAME.")
    ] = None,
    folds: Annotated[
        list[str] | None,
        typer.Option("--fold", help="Only with this drive held out; may be repeated."),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option("--row", help="Only this row, after its teacher; may be repeated."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Row that the tables compare with; default: the study's."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only tell the stages, their samples and images.")
    ] = False,
    only_tables: Annotated[
        bool, typer.Option("--only-tables", help="Only the tables of what is there.")
    ] = False,
    time: Annotated[
        bool,
        typer.Option(
            "--latency/--no-latency", help="Time the networks, in turn: on an idle machine."
        ),
    ] = True,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: PyTorch's.")
    ] = None,
    redo: Annotated[
        bool, typer.Option("--redo", help="Do again what a changed study changes of finished work.")
    ] = False,
) -> None:
    """Leave one drive out, in turn: train, prune and recover on the others, judge on that one.

    Every row of the study in every fold with every seed, or the given ones, then their tables with
    paired intervals and verdicts by the study's margins: result.json and report.html. The same
    command goes on where it was stopped.

    Example: [bold]mtc-compress study config/studies/camvid.yaml --plan[/bold]
    """
    from rich.console import Console

    from mtc_perception.util.progress import Progress
    from offline_compress.commands.compress import stoppable
    from offline_compress.study.study import load_study

    loaded = load_study(path)  # before the imports that take seconds
    from offline_compress.study import report, run

    out = out or Path("runs", "studies", loaded.name)
    chosen = run.Chosen.of(loaded, out, folds or (), rows or (), reference)
    if plan:
        Console().print(report.plan_table(run.plan(chosen)))
        return
    run.claim(loaded, out)
    with stoppable():
        if not only_tables:
            run.run_networks(chosen, threads, redo, print)
            if reason := run.why_no_tables(chosen):
                print(f"judged; {reason}")
                return
        with Progress(alone=True) as progress:
            if time and not only_tables:
                run.measure_latency(chosen, progress.counter("timing"))
            result = run.tables(chosen, progress.count)
    report.write_result(out, result)
    for table in report.terminal_tables(result):
        Console().print(table)
    print(f"{out / run.RESULT_FILE}, {out / report.PAGE_FILE}")

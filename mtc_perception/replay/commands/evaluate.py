"""`mtc-replay evaluate`: recordings through a bundle, scored and checked against limits."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mtc_perception.replay.commands.flags import flag_of, options_of, with_flags
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.util.errors import UserError

_MANY = "Many recordings"


@with_flags(Recording, ReplayOptions)
def evaluate(
    bags: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="BAG...",
            help="rosbag2 (folder, .mcap or .db3), video file or image folder; may be several.",
            show_default=False,
        ),
    ] = None,
    scenario: Annotated[
        Path | None,
        typer.Option(help="YAML file with bags, options and limits, in place of BAG...."),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, help="So many streams at once, here.", rich_help_panel=_MANY),
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="As many streams at once as the Ray cluster there has processors for.",
            rich_help_panel=_MANY,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; default: out/replay/BUNDLE[_SCENARIO][_live]."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replay what an earlier try has done as well.")
    ] = False,
    **given: Any,
) -> None:
    """Replay recordings through a bundle, one image after the other, and score the answers.

    Every image is read from the file and answered, however long that takes, so that two runs give
    the same results to the last bit. What an interrupted run has finished is not done again.

    Exit code: 0 good, 1 a limit failed or a stream could not be evaluated, 2 no stream could be or
    a mistake in what was asked for.

    With labels in the bag: [bold]mtc-replay evaluate drive.mcap -b models/mtc_nano.mtc[/bold]

    Labels in a folder: [bold]mtc-replay evaluate drive/ -b student.mtc --labels data/val[/bold]

    No labels: [bold]mtc-replay evaluate a.mcap b.mcap -b student.mtc --reference
    teacher.mtc[/bold]

    In CI: [bold]mtc-replay evaluate --scenario nightly.yaml[/bold]

    As it drives: [bold]mtc-replay evaluate drive.mcap -b student.mtc --live[/bold]
    """
    from rich.console import Console

    from mtc_perception.replay.run.evaluation import default_run_folder, evaluate_run
    from mtc_perception.replay.run.runners import choose_runner, threads_each
    from mtc_perception.replay.run.scenario import Limit, read_scenario
    from mtc_perception.replay.terminal import RunProgress, show_result
    from mtc_perception.util.progress import Progress

    of_bags, wanted = options_of(Recording, given), options_of(ReplayOptions, given)
    name: str | None = None
    limits: dict[str, Limit] = {}
    if scenario is not None:
        if bags or of_bags:
            raise UserError("a scenario names its recordings and labels itself: leave out others")
        read = read_scenario(scenario, wanted)
        recordings, options, name, limits = read.bags, read.options(), read.name, read.limits
    elif not bags:
        raise UserError("give BAG... or --scenario")
    elif "bundle" not in wanted:
        raise UserError("give the network to run: --bundle")
    else:
        recordings = [Recording(path=path, **of_bags) for path in bags]
        options = ReplayOptions(**wanted)
    if options.threads is None:
        options = options.model_copy(update={"threads": threads_each(workers, ray)})
    runner = choose_runner(options.mode, workers, ray)
    for one in wanted:
        if options.mode != "live" and flag_of(ReplayOptions, one).panel == "Live":
            raise UserError(f"--{one.replace('_', '-')} is for --live")
    run = out or default_run_folder(options, name)
    with Progress(keep=True) as progress:
        result = evaluate_run(
            recordings,
            options,
            run,
            runner,
            RunProgress(progress),
            name=name,
            limits=limits,
            fresh=fresh,
        )
    console = Console()
    show_result(console, result)
    print(f"wrote {run / 'result.json'} and {run / 'index.html'}")
    if result["passed"] is False or result["failed"]:
        raise typer.Exit(1)

"""`mtc-replay`: recordings through a bundle, scored, checked against limits, and compared."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mtc_perception.replay.demo import demo
from mtc_perception.replay.flags import flag_of, options_of, with_flags
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.util.command_line import run_app
from mtc_perception.util.errors import UserError
from mtc_perception.util.interrupts import handle_interrupts
from mtc_perception.util.memory import keep_memory
from mtc_perception.util.opencv_threads import use_one_opencv_thread

_MANY = "Many recordings"

app = typer.Typer(
    name="mtc-replay",
    help="Replay recordings through a bundle: is it right, is it fast enough, what changed?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command()
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
        typer.Option(
            help="Folder of the run; default: out/replay/BUNDLE_RECORDING[_ENGINE][_PRECISION]"
            "[_live], or _SCENARIO in place of _RECORDING."
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replay what an earlier try has done as well.")
    ] = False,
    **given: Any,
) -> None:
    """Replay recordings through a bundle, one image after the other, and score the answers.

    Every image is read from the file and answered, however long that takes, so that two runs give
    the same results to the last bit. What an interrupted run has finished is not done again.

    Exit code: 0 good, 1 a limit failed, a stream could not be evaluated or had no answer at all,
    2 no stream could be or a mistake in what was asked for.

    With labels in the bag: [bold]mtc-replay evaluate drive.mcap -b models/mtc_nano.mtc[/bold]

    Labels in a folder: [bold]mtc-replay evaluate drive/ -b student.mtc --labels data/val[/bold]

    No labels: [bold]mtc-replay evaluate a.mcap b.mcap -b student.mtc --reference
    teacher.mtc[/bold]

    In CI: [bold]mtc-replay evaluate --scenario nightly.yaml[/bold]

    As it drives: [bold]mtc-replay evaluate drive.mcap -b student.mtc --live[/bold]
    """
    from rich.console import Console

    from mtc_perception.replay.results.run_result import unanswered_streams
    from mtc_perception.replay.run.evaluation import default_run_folder, evaluate_run
    from mtc_perception.replay.run.runners import choose_runner, threads_each
    from mtc_perception.replay.run.scenario import Limit, read_scenario
    from mtc_perception.replay.terminal import RunProgress, show_result
    from mtc_perception.util.progress import Progress

    keep_memory()
    use_one_opencv_thread()
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
    run = out or default_run_folder(recordings, options, name)
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
    if result["passed"] is False or result["failed"] or unanswered_streams(result):
        raise typer.Exit(1)


@app.command()
@with_flags(ReplayOptions, only=("bundle", "engine", "precision", "threads", "seconds"))
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Image, folder of images, pattern, video, bag, number of a camera, or address of "
            "a stream (rtsp://, http://).",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: out/predict/INPUT.")
    ] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Write masks as PNG files, too.")] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Show what is seen in a window; q closes it.")
    ] = False,
    **given: Any,
) -> None:
    """Draw what a network sees into images, videos and what cameras see now.

    Writes a picture for each image, a video for each video, bag or camera, and a line of JSON for
    every image to predictions.jsonl. A camera goes on until Ctrl-C.

    Exit code: 0 good, 1 none of the images of an input could be answered, 2 a mistake in what was
    asked for.

    [bold]mtc-replay predict photo.jpg -b models/mtc_nano.mtc[/bold]

    [bold]mtc-replay predict drive.mp4 'more/*.png' -b models/mtc_nano.mtc --masks[/bold]

    [bold]mtc-replay predict 0 -b models/mtc_nano.mtc --show --seconds 60[/bold]
    """
    from contextlib import closing, nullcontext

    from mtc_perception.replay.predict.inputs import open_inputs
    from mtc_perception.replay.predict.predict import predict as look
    from mtc_perception.replay.predict.window import Window
    from mtc_perception.runtime.perceiver import open_perceiver
    from mtc_perception.util.progress import Progress

    keep_memory()
    use_one_opencv_thread()
    wanted = options_of(ReplayOptions, given)
    if "bundle" not in wanted:
        raise UserError("give the network to run: --bundle")
    options = ReplayOptions(**wanted)
    found = open_inputs(inputs)
    out = out or Path("out", "predict", found[0].name)
    window = Window("mtc-replay predict") if show else None
    with (
        closing(window) if window else nullcontext(),
        open_perceiver(options.selection) as perceiver,
        Progress(keep=True) as progress,
    ):
        outcomes = look(
            perceiver,
            found,
            out,
            progress,
            seconds=options.seconds,
            masks=masks,
            window=window,
        )
    for one in outcomes:
        failed = f", {one.unanswered} without an answer ({one.first_reason})"
        print(f"{one.name}: {one.answered} images{failed if one.unanswered else ''}")
    print(f"wrote {out}")
    if not all(one.answered for one in outcomes):
        raise typer.Exit(1)


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder of a run, the old one.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of a run, the new one.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: RUN_B/against_RUN_A.")
    ] = None,
) -> None:
    """Compare two runs of the same recordings: what got better, what worse, and in which images.

    A change counts where its 95 % interval leaves zero out (bootstrap over blocks of images, both
    runs drawn alike). Writes `comparison.json` and a page with the images that changed most.

    Example: [bold]mtc-replay compare out/replay/teacher out/replay/student[/bold]
    """
    import json

    from rich.console import Console

    from mtc_perception.replay.report.compare_page import write_comparison
    from mtc_perception.replay.results.comparison import (
        COMPARISON_FILE,
        claim_comparison,
        compare_runs,
    )
    from mtc_perception.replay.terminal import show_comparison
    from mtc_perception.util.files import write_text_atomic
    from mtc_perception.util.progress import Progress

    folder = out or run_b / f"against_{run_a.resolve().name}"
    claim_comparison(folder, run_a, run_b)
    with Progress() as progress:
        comparison = compare_runs(run_a, run_b, progress.counter("resampling"))
        folder.mkdir(parents=True, exist_ok=True)
        page = write_comparison(folder, run_a, run_b, comparison, progress.ticker("drawing"))
    file = write_text_atomic(folder / COMPARISON_FILE, json.dumps(comparison, indent=2) + "\n")
    show_comparison(Console(), comparison)
    for path in (file, page):
        print(f"wrote {path}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run of mtc-replay evaluate.")],
) -> None:
    """Write the page of a run again, from the run's folder alone."""
    from mtc_perception.replay.report.run_page import write_page

    print(f"wrote {write_page(run)}")


@app.command()
def bag(
    recording: Annotated[
        Path,
        typer.Argument(
            help="Video file or image folder; ROOT/images/SPLIT of a data set has labels."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    fps: Annotated[
        float | None,
        typer.Option(min=0.001, help="Frame rate of an image folder (30), or of a video."),
    ] = None,
) -> None:
    """Make a rosbag2 (mcap) of a video or an image folder, with the labels where it has any.

    A split with its labels: [bold]mtc-replay bag data/images/val out/val[/bold]
    """
    from mtc_perception.replay.recordings.sources import open_source
    from mtc_perception.replay.recordings.writer import write_recording
    from mtc_perception.util.progress import Progress

    source = open_source(recording, fps=fps)
    with Progress() as progress:
        count = progress.counter(source.info.name, unit="img")
        notes = write_recording(source, out, lambda done: count(done, source.info.frames))
    for note in notes.all():
        print(f"warning: {note}")
    print(f"wrote {out}")


app.command()(demo)


def main() -> None:
    """Console entry point."""
    handle_interrupts()
    run_app(app)


if __name__ == "__main__":
    main()

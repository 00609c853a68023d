"""`mtc-replay`: recordings through a bundle, scored, checked against limits, and compared."""

from pathlib import Path
from typing import Annotated

import typer

from mtc_perception.replay.commands.demo import demo
from mtc_perception.replay.commands.evaluate import evaluate
from mtc_perception.util.command_line import run_app
from mtc_perception.util.interrupts import handle_interrupts

app = typer.Typer(
    name="mtc-replay",
    help="Replay recordings through a bundle: is it right, is it fast enough, what changed?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.command()(evaluate)


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
    from mtc_perception.replay.results.comparison import compare_runs
    from mtc_perception.replay.terminal import show_comparison
    from mtc_perception.util.files import write_text_atomic
    from mtc_perception.util.progress import Progress

    folder = out or run_b / f"against_{run_a.resolve().name}"
    with Progress() as progress:
        comparison = compare_runs(run_a, run_b, progress.counter("resampling"))
        folder.mkdir(parents=True, exist_ok=True)
        page = write_comparison(folder, run_a, run_b, comparison, progress.ticker("drawing"))
    file = write_text_atomic(folder / "comparison.json", json.dumps(comparison, indent=2) + "\n")
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

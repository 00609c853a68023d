"""`mtc-replay report` and `mtc-replay bag`: a page and a recording from files that are there."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run of mtc-replay evaluate.")],
) -> None:
    """Write the page of a run again, from the run's folder alone."""
    from mtc_perception.replay.report.run_page import write_page

    print(f"wrote {write_page(run)}")


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

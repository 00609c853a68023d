"""`mtc-compress compare`: two evaluations of the same images, with intervals and verdicts."""

from pathlib import Path
from typing import Annotated

import typer


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of `evaluate`: the reference.")],
    b: Annotated[Path, typer.Argument(help="Folder of `evaluate`, of the same data.")],
    margins: Annotated[
        list[str] | None,
        typer.Option(
            "--margin",
            metavar="FIGURE=POINTS",
            help="Difference that does not matter, e.g. detection.map50=1; may be repeated.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: B/against_A.")] = None,
) -> None:
    """Compare two networks on the same images: is one as good as the other, and how sure is that?

    Every figure with the 95 % interval of its difference (paired bootstrap over blocks of images),
    per data set and condition, and whether that lies within a margin. Writes `comparison.json` and
    a page.

    Example: [bold]mtc-compress compare OUT/teacher OUT/student --margin lane.iou=0.5[/bold]
    """
    import json

    from rich.console import Console

    from mtc_perception.metrics.equivalence import MARGINS_POINTS
    from mtc_perception.util.files import write_text_atomic
    from mtc_perception.util.progress import Progress
    from offline_compress.evaluation import comparison

    folder = out or b / f"against_{a.resolve().name}"
    comparison.claim_comparison(folder, a, b)
    stated = comparison.stated_margins(margins or (), MARGINS_POINTS)
    with Progress() as progress:
        found = comparison.compare(a, b, stated, progress.counter("resampling"))
    folder.mkdir(parents=True, exist_ok=True)
    file, page = folder / comparison.COMPARISON_FILE, folder / comparison.PAGE_FILE
    write_text_atomic(file, json.dumps(found, indent=2) + "\n")
    comparison.write_page(page, found)
    for table in comparison.terminal_tables(found):
        Console().print(table)
    for note in found["notes"]:
        print(f"note: {note}")
    print(f"{file}, {page}")

"""`mtc-compress convert`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from offline_compress.convert.write import Converted


def convert(
    kind: Annotated[
        str,
        typer.Argument(
            help="camvid, cityscapes, coco, comma10k, idd, kitti-object, kitti-road, mapillary, "
            "rtk or yolo."
        ),
    ],
    source: Annotated[
        Path, typer.Argument(help="Folder of the unpacked download, see docs/data.md.")
    ],
    out: Annotated[Path, typer.Argument(help="Data set to write; data/KIND is found by name.")],
    width: Annotated[
        int | None,
        typer.Option(min=32, help="Scale images down to so many pixels; default: as they are."),
    ] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=0.5,
            help="Of a download of one split, every n-th image by name becomes val: 0.2 is every "
            "fifth.",
        ),
    ] = None,
) -> None:
    """Make a data set of the project's layout from a public download or your own export, and count
    what is in it.

    Every file is decoded. An image of which something is broken is left out, and the first such
    file is named. Images that are not scaled are links to those of the download where both are on
    one disk.

    Exit code 0: all was good; 1: something was broken. Examples:

    [bold]mtc-compress convert cityscapes ~/Downloads/cityscapes data/cityscapes[/bold]

    [bold]mtc-compress convert camvid ~/Downloads/camvid data/camvid --width 480[/bold]
    """
    from rich.console import Console

    from mtc_perception.util.progress import Progress
    from offline_compress.convert.write import convert as write

    with Progress() as progress:
        count = progress.counter(f"converting {kind}", "img")
        converted = write(kind, source, out, width, count, val_fraction)
    print(f"{out}:")
    Console().print(_table(converted))
    for line in _lines(converted):
        print(line)
    if converted.broken:
        raise typer.Exit(1)


def _lines(converted: "Converted") -> list[str]:
    counts = Counter(problem.kind for problem in converted.problems)
    lines = [f"{count} x {kind}" for kind, count in counts.most_common()]
    if converted.left_out:
        lines.append(f"left out {converted.left_out} images")
    if broken := converted.broken:
        lines.append(f"first of {len(broken)} broken: {broken[0]}")
    elif converted.problems:
        lines.append(f"first: {converted.problems[0]}")
    if len(converted.splits) == 1 and not converted.broken:  # or the other may be what is broken
        (split,) = converted.splits
        lines.append(f"{split} is the only split: --val-fraction 0.2 makes a val of a part of it")
    return lines


def _table(converted: "Converted") -> "Table":
    from rich.table import Table

    table = Table()
    table.add_column("")
    for split in converted.splits:
        table.add_column(split, justify="right")
    counts = converted.splits.values()
    table.add_row("images", *(str(one.images) for one in counts))
    for task in ("drivable", "lane"):
        covers = [one.cover.get(task) for one in counts]
        if any(cover is not None for cover in covers):
            shown = ("" if cover is None else f"{cover:.2%}" for cover in covers)
            table.add_row(f"mean {task} cover", *shown)
    for name in sorted({name for one in counts for name in one.boxes}):
        table.add_row(name, *(str(one.boxes[name]) for one in counts))
    if any(one.ignore_regions for one in counts):
        table.add_row("ignore regions", *(str(one.ignore_regions) for one in counts))
    return table

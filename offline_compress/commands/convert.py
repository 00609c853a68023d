"""`mtc-compress convert`."""

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
) -> None:
    """Make a data set of the project's layout from a public download, and count what is in it.

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
        converted = write(kind, source, out, width, progress.counter(f"converting {kind}", "img"))
    print(f"{out}:")
    Console().print(_table(converted))
    if converted.broken:
        count = len(converted.broken)
        print(f"left out {count} images; the first broken file is {converted.broken[0]}")
        raise typer.Exit(1)


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

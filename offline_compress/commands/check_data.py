"""`mtc-compress check-data`."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from offline_compress.data.check import DataReport, SplitReport


def check_data(
    root: Annotated[Path, typer.Argument(help="Data set, a folder or a name, see docs/data.md.")],
    split: Annotated[str | None, typer.Option(help="Only this split; default: all.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file, too.")
    ] = None,
) -> None:
    """Decode a whole data set, name the first broken file and count the others.

    Exit code 0: nothing is broken; 1: something is. Example:
    [bold]mtc-compress check-data DATA/bdd100k --split val[/bold]
    """
    from rich.console import Console

    from mtc_perception.util.differences import held_of, refuse_other
    from mtc_perception.util.files import write_text_atomic
    from mtc_perception.util.progress import Progress
    from mtc_perception.util.provenance import portable, provenance
    from offline_compress.data.check import check_data as check
    from offline_compress.recipe.data_root import data_root

    root = data_root(root)
    of = {"data": portable(root), "split": split}
    if json_file and json_file.exists():
        refuse_other(json_file, held_of(json_file), of, "--json")
    with Progress(alone=True) as progress:
        progress.count("indexing", 0)
        report = check(root, split, progress.count)
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({**report.to_json(), "of": of, **provenance()}, indent=2)
        write_text_atomic(json_file, content + "\n")
    console = Console()
    print(f"{root}: {report.layout} layout")
    console.print(_table(report))
    for line in _lines(report):
        print(line)
    if report.broken:
        raise typer.Exit(1)


def _table(report: "DataReport") -> "Table":
    from rich.table import Table

    table = Table()
    table.add_column("")
    for name in report.splits:
        table.add_column(name, justify="right")
    columns = [_figures(split) for split in report.splits.values()]
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(column.get(name, "") for column in columns))
    return table


def _figures(split: "SplitReport") -> dict[str, str]:
    figures = {
        "images": str(split.images),
        "labelled for detection": str(split.labelled["detection"]),
        "labelled for drivable": str(split.labelled["drivable"]),
        "labelled for lane": str(split.labelled["lane"]),
        "boxes": str(split.boxes),
        "boxes of": _most(split.categories),
        "ignore regions": str(split.ignore_regions),
    }
    for task in ("drivable", "lane"):
        part = split.mean_cover(task)
        figures[f"mean {task} cover"] = "" if part is None else f"{part:.2%}"
    figures["sizes"] = _most(split.sizes)
    return figures | {name: _most(values) for name, values in split.attributes.items()}


def _most(counts: Counter[str]) -> str:
    """The commonest values with their counts."""
    shown = [f"{name} ({count})" for name, count in counts.most_common(4)]
    more = len(counts) - len(shown)
    return "\n".join(shown + ([f"{more} more"] if more else []))


def _lines(report: "DataReport") -> list[str]:
    counts = Counter(problem.kind for problem in report.problems)
    lines = [f"{count} x {kind}" for kind, count in counts.most_common()]
    broken = report.broken
    if not broken:
        return [*lines, "nothing is broken"]
    return [*lines, f"first of {len(broken)} broken: {broken[0]}"]

"""`mtc-replay compare`: what changed from one run to another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer


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
    from mtc_perception.util.files import write_text_atomic
    from mtc_perception.util.progress import Progress

    folder = out or run_b / f"against_{run_a.resolve().name}"
    with Progress() as progress:
        comparison = compare_runs(run_a, run_b, progress.counter("resampling"))
        folder.mkdir(parents=True, exist_ok=True)
        page = write_comparison(folder, run_a, run_b, comparison, progress.ticker("drawing"))
    file = write_text_atomic(folder / "comparison.json", json.dumps(comparison, indent=2) + "\n")
    _show(Console(), comparison)
    for path in (file, page):
        print(f"wrote {path}")


def _show(console: Any, comparison: Mapping[str, Any]) -> None:
    from rich.table import Table

    against = comparison["against"]
    table = Table(
        title=f"{_network(comparison['a'])} (A) and {_network(comparison['b'])} (B), "
        f"{comparison['images']} images" + (f", against the {against}" if against else ""),
        title_justify="left",
    )
    table.add_column("figure", overflow="fold")
    for heading in ("A", "B", "change", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("B is", no_wrap=True)
    styles = {"better": "green", "worse": "red"}
    for row in comparison["figures"]:
        interval = "" if row["low"] is None else f"{row['low']:+.3f} {row['high']:+.3f}"
        table.add_row(
            row["name"],
            *(_text(row[side], ".3f") for side in ("a", "b")),
            _text(row["change"], "+.3f"),
            interval,
            row["verdict"] if row["verdict"] in styles else "-",
            style=styles.get(row["verdict"], ""),
        )
    console.print(table)
    for words, count in (("A", comparison["only_a"]), ("B", comparison["only_b"])):
        if count:
            print(f"{count} images are in run {words} alone")
    print(f"{comparison['different_answers']} of {comparison['images']} answers differ")
    for note in comparison["notes"]:
        print(f"note: {note}")
    for task in dict.fromkeys(row["task"] for row in comparison["changed_images"]):
        rows = [row for row in comparison["changed_images"] if row["task"] == task]
        for words, chosen in (
            ("worse", [row for row in rows if row["change"] < 0]),
            ("better", [row for row in rows if row["change"] > 0]),
        ):
            listed = ", ".join(
                f"{row['stream']} image {row['index_b']} ({row['change']:+.3f})"
                for row in chosen[:3]
            )
            if listed:
                console.print(f"{task}, most {words}: {listed}", soft_wrap=True, highlight=False)


def _network(side: Mapping[str, Any]) -> str:
    return f"{side['bundle']} on {side['engine']} {side['precision']}"


def _text(value: float | None, form: str) -> str:
    return "undefined" if value is None else format(value, form)

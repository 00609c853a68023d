"""What `mtc-replay` shows: progress while it runs, the result as one table at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mtc_perception.replay.report.views import (
    frame_rows,
    latency_rows,
    live_rows,
    metric_rows,
    times_ms,
)
from mtc_perception.replay.results.run_result import tasks_of, unanswered_streams
from mtc_perception.replay.stream.task import StreamTask
from mtc_perception.util.progress import Progress

_NARROW = 100
"""Columns of a terminal in which a comparison's longest names do not fit in one line."""
_LONGEST_NAME = 23
"""Of a figure, that fits in 80 columns."""


class RunProgress:
    """Shows how far each stream of a run is."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._begun: set[int] = set()

    def planned(self, tasks: Sequence[StreamTask], there: int, run: Path) -> None:
        """Say what an earlier try has left to do."""
        if there:
            streams = f"{there} of {there + len(tasks)} streams"
            self._progress.line(f"{streams} are in {run} already (--fresh: again)")

    def __call__(self, task: StreamTask, done: float, total: float | None) -> None:
        if task.number not in self._begun and total is not None:
            self._begun.add(task.number)
            if not self._progress.drawn:
                self._progress.line(f"{task.name}: {total:g} images")
        self._progress.count(task.name, done, total, unit="img")


def show_result(console: Console, result: Mapping[str, Any]) -> None:
    """Everything on one screen: images, times, accuracy, then what was noted and what failed."""
    console.print(result_table(result))
    for note in result["notes"]:
        times = f" ({note['count']} times)" if note["count"] > 1 else ""
        _line(console, f"warning: {note['kind']}{times}: {note['first']}", "yellow")
    for name in unanswered_streams(result):
        _line(console, f"no answer: {name}: none of its images could be answered", "red")
    for failure in result["failed"]:
        _line(console, f"not evaluated: {failure['name']}: {failure['error']}", "red")
    for check in result["checks"]:
        limits = [f"{word} {check[word]:g}" for word in ("min", "max") if check[word] is not None]
        value = "not measured" if check["value"] is None else f"{check['value']:.4g}"
        word, style = ("passed", "green") if check["passed"] else ("FAILED", "red")
        _line(console, f"{word}: {check['name']} {value} ({', '.join(limits)})", style)


def result_table(result: Mapping[str, Any]) -> Table:
    """The figures of a run."""
    live = result["mode"] == "live"
    streams = len(result["streams"])
    table = Table(
        title=f"{result['bundle']['name']} on {streams} stream{'s' * (streams > 1)}, "
        f"{result['engine']} {result['precision']}",
        title_justify="left",
    )
    table.add_column("images, milliseconds, fractions")
    for quantile in ("p50", "p95", "p99", "max"):
        table.add_column(quantile, justify="right")
    for words, count in frame_rows(result):
        lost = words not in ("frames in", "processed")
        table.add_row(words, str(count), style="red" if lost and count else "")
    table.add_row("labelled", str(result["labelled_frames"]))
    table.add_section()
    for words, values in latency_rows(times_ms(result)):
        table.add_row(words, *values)
    for words, value in live_rows(result):
        table.add_row(words, value)
    table.add_section()
    for words, value in metric_rows(result, live):
        table.add_row(words, value)
    if rows := metric_rows(result.get("answered", {}), live):
        table.add_section()
        for words, value in rows:
            table.add_row(f"{words}, of the answers alone", value)
    if "agreement" in result:
        table.add_section()
        for words, value in metric_rows(result["agreement"], live):
            table.add_row(f"{words}, against {result['reference']['name']}", value)
    if "stability" in result:
        table.add_section()
        stability = result["stability"]
        for task, words, value in (
            ("detection", "boxes that persist", stability["detection"]["persistence"]),
            ("drivable", "drivable area kept (IoU)", stability["drivable"]["iou"]),
            ("lane", "lane lines kept (IoU)", stability["lane"]["iou"]),
        ):
            if task in tasks_of(result):
                table.add_row(words, "undefined" if value is None else f"{value:.3f}")
    return table


def _in_two_lines(name: str) -> str:
    """A figure's dotted name, ended at a dot where a narrow terminal would end it in a word."""
    before, dot, last = name.rpartition(".")
    return f"{before}{dot}\n{last}" if len(name) > _LONGEST_NAME else name


def show_comparison(console: Console, comparison: Mapping[str, Any]) -> None:
    """What changed, figure by figure, and in which images most."""
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
            row["name"] if console.width >= _NARROW else _in_two_lines(row["name"]),
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


def _line(console: Console, text: str, style: str) -> None:
    console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)

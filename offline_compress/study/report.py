"""The result of a study as a file, as tables and as one self-contained page."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from mtc_perception.metrics.bootstrap import BLOCK_IMAGES, CONFIDENCE, RESAMPLES
from mtc_perception.metrics.figures import ACCURACY
from mtc_perception.pages import render
from mtc_perception.util.files import write_text_atomic
from offline_compress.evaluation.evaluation_report import TextTable
from offline_compress.report.compression_charts import Panel, networks
from offline_compress.report.compression_report import ENGINE_WORDS, SvgChart, terminal_table
from offline_compress.study.changes_chart import ChangesPanel, changes
from offline_compress.study.comparison import FIGURES
from offline_compress.study.run import RESULT_FILE

PAGE_FILE = "report.html"
_TEMPLATE = "study_page.html.j2"
_ENGINE = "openvino"

Result = Mapping[str, Any]


def write_result(out: Path, result: Result) -> None:
    """Write result.json and the page, atomically."""
    write_text_atomic(out / RESULT_FILE, json.dumps(result, indent=2) + "\n")
    words = f"Points against {result['reference']}, with intervals; shaded: within the margin."
    charts = [SvgChart("Changes", words, one) for one in changes_picture(result)]
    over = [SvgChart("Accuracy over latency", _words(result), one) for one in _picture(result)]
    page = render(
        __package__ or "",
        _TEMPLATE,
        result=result,
        tables=[networks_table(result), *lines_tables(result)],
        charts=charts,
        charts_below=over,
        bootstrap={
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
            "images_per_block": BLOCK_IMAGES,
        },
    )
    write_text_atomic(out / PAGE_FILE, page)


def plan_table(plan: Mapping[str, Any]) -> Table:
    """Stages with their training samples, and judged images, for the terminal."""
    rows = [
        [
            one["name"],
            ", ".join(f"{stage} {count}" for stage, count in one["stages"].items() if count),
            str(one["judged"] or ""),
        ]
        for one in plan["networks"]
    ]
    samples = sum(sum(one["stages"].values()) for one in plan["networks"])
    judged = sum(one["judged"] for one in plan["networks"])
    total = ["in all", str(samples), str(judged)]
    return terminal_table(
        TextTable("", ["network", "samples to train on", "images to judge"], [rows, [total]])
    )


def terminal_tables(result: Result) -> Iterator[Table]:
    """All tables for the terminal."""
    for one in (networks_table(result), *lines_tables(result)):
        yield terminal_table(one)


def networks_table(result: Result) -> TextTable:
    """What the rows are."""
    columns = ["row", "kind", "networks", "parameters", "GMACs"]
    columns += [f"{words} ms" for words in ENGINE_WORDS.values()]
    rows = []
    for name, one in result["rows"].items():
        times = one["latency_ms"] or {}
        cells = [name, one["kind"], str(one["networks"]), f"{one['params'] / 1e6:.2f} M"]
        cells += [f"{one['gmacs']:.2f}"]
        cells += [f"{times[engine]:.1f}" if times else "" for engine in ENGINE_WORDS]
        rows.append(cells)
    return TextTable("Networks", columns, [rows])


def lines_tables(result: Result) -> Iterator[TextTable]:
    """One table for every part of a set: values, and changes with interval and verdict."""
    for line in result["lines"]:
        figures = [one for one in FIGURES if any(one.name in row for row in line["rows"].values())]
        cells = [
            [name, *(_cell(row.get(figure.name)) for figure in figures)]
            for name, row in line["rows"].items()
        ]
        objects = f", {line['objects']} vehicles" if line["objects"] else ""
        yield TextTable(
            f"{line['set']}, {line['part']}: {line['images']} images{objects}",
            ["row", *(figure.title for figure in figures)],
            [cells],
        )


def _cell(figure: Mapping[str, Any] | None) -> str:
    """A value ± its deviation over the seeds; beside the reference, the change in points, its
    interval, and the verdict."""
    if figure is None or figure["value"] is None:
        return ""
    words = f"{figure['value']:.3f}"
    if figure.get("deviation") is not None:
        words += f" ± {figure['deviation']:.3f}"
    if figure.get("change") is None:
        return words
    words += f"\n{100 * figure['change']:+.1f}"
    if figure["low"] is not None:
        words += f" ({100 * figure['low']:+.1f} to {100 * figure['high']:+.1f})"
    return words + (f"\n{figure['verdict']}" if figure["verdict"] else "")


def changes_picture(result: Result) -> list[str]:
    """The changes on all images of each set, if there is a row beside the reference."""
    names = [name for name in result["rows"] if name != result["reference"]]
    panels = []
    for line in result["lines"]:
        if line["part"] != "all":
            continue
        rows = {
            name: {
                figure.title: (100 * one["change"], 100 * one["low"], 100 * one["high"])
                for figure in FIGURES
                if (one := line["rows"][name].get(figure.name)) and one.get("low") is not None
            }
            for name in names
        }
        known = [one for one in FIGURES if any(one.title in row for row in rows.values())]
        margins = {one.title: result["margins_points"].get(one.name) for one in known}
        if margins:
            panels.append(ChangesPanel(f"{line['set']}: {line['images']} images", margins, rows))
    return [changes(panels)] if panels else []


def _words(result: Result) -> str:
    return f"{ENGINE_WORDS[_ENGINE]}, batch 1, fp32; line: what no other row dominates."


def _picture(result: Result) -> list[str]:
    """Figures over latency, where that was measured."""
    times = {name: one["latency_ms"] for name, one in result["rows"].items()}
    if not all(times.values()):
        return []
    panels = [
        Panel(
            f"{line['set']}: {ACCURACY[figure.name].title}",
            {
                name: (times[name][_ENGINE], row[figure.name]["value"])
                for name, row in line["rows"].items()
            },
        )
        for line in result["lines"]
        if line["part"] == "all"
        for figure in FIGURES
        if all(row.get(figure.name, {}).get("value") is not None for row in line["rows"].values())
    ]
    return [networks(panels, "ms")]

"""Compression runs as a table for the terminal and as one self-contained HTML page."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from mtc_perception.core.overlay import color_key
from mtc_perception.core.tasks import TASKS
from mtc_perception.datasets.layout import LayoutError
from mtc_perception.metrics.figures import HEADLINES, Figure, task_scores
from mtc_perception.pages import render
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import NamedCount
from offline_compress.channels.groups import channel_groups
from offline_compress.evaluation.evaluation_report import FramePair, TextTable
from offline_compress.importance import conflict_summary, load
from offline_compress.importance.multi_task import description_of
from offline_compress.models.registry import load_checkpoint
from offline_compress.pipeline.folder import RECIPE_FILE, RunFolder, weights
from offline_compress.pipeline.row import ENGINES, missed
from offline_compress.pipeline.stages import digest_of
from offline_compress.pruning.plan import read_plan
from offline_compress.pruning.sensitivity import Sensitivity
from offline_compress.recipe.recipe import load_recipe
from offline_compress.report.compression_charts import (
    channels,
    conflict_map,
    loss_over_cost,
    trade_off,
)
from offline_compress.report.compression_pictures import side_by_side
from offline_compress.report.compression_rows import (
    Row,
    Setting,
    Spread,
    points,
    settings_of,
    share,
    shortfalls,
)

ENGINE_WORDS = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
SHOWN = {
    "Objects": tuple(one for one in HEADLINES if one.name.startswith("detection.")),
    "Areas": tuple(one for one in HEADLINES if not one.name.startswith("detection.")),
}
"""Headlines by the title of their table."""
_TEMPLATE = "compression_page.html.j2"


@dataclass(frozen=True, slots=True)
class SvgChart:
    """A picture in SVG."""

    title: str
    words: str
    svg: str


def settings_tables(settings: Sequence[Setting]) -> list[TextTable]:
    """What each setting costs and what it loses, as means and deviations over its seeds.

    Below what a student has stands how that compares with its teacher: as a second line, since all
    of it side by side is wider than a terminal.
    """
    costs = ["setting", "seeds", "budget", "parameters", "GMACs"]
    costs += [f"{ENGINE_WORDS[engine]} ms" for engine in ENGINES]
    teachers = {row["teacher"]["sha256"]: row for setting in settings for row in setting.rows}
    return [
        TextTable(
            "Cost",
            costs,
            [
                [_teacher_costs(row) for row in teachers.values()],
                [_setting_costs(setting) for setting in settings],
            ],
        ),
        *(
            TextTable(
                f"{title}; below it points against the teacher",
                ["setting", *(figure.title for figure in shown)],
                [
                    [_teacher_figures(row, shown) for row in teachers.values()],
                    [_setting_figures(setting, shown) for setting in settings],
                ],
            )
            for title, shown in SHOWN.items()
        ),
        TextTable(
            "Scores of the tasks without the channels, before recovery",
            ["setting", *TASKS],
            [
                [_teacher_scores(row) for row in teachers.values()],
                [_pruned_scores(setting) for setting in settings],
            ],
        ),
    ]


def _teacher_costs(row: Row) -> list[str]:
    teacher = row["teacher"]
    return [
        f"teacher {teacher['name']}",
        "",
        "",
        f"{teacher['params'] / 1e6:.2f} M",
        f"{teacher['gmacs']:.2f}",
        *(f"{teacher['latency_ms_by_engine'][engine]:.2f}" for engine in ENGINES),
    ]


def _teacher_figures(row: Row, shown: Sequence[Figure]) -> list[str]:
    figures = [_number(figure.of(row["teacher"]), ".3f") for figure in shown]
    return [f"teacher {row['teacher']['name']}", *figures]


def _teacher_scores(row: Row) -> list[str]:
    scores = task_scores(row["teacher"])
    return [f"teacher {row['teacher']['name']}", *(_number(scores.get(t), ".4f") for t in TASKS)]


def _pruned_scores(setting: Setting) -> list[str]:
    spreads = (setting.spread(lambda row, t=task: row["pruned"].get(t)) for task in TASKS)  # type: ignore[misc]
    return [setting.name, *(_spread(spread, ".4f") for spread in spreads)]


def _setting_costs(setting: Setting) -> list[str]:
    params = setting.spread(lambda row: row["student"]["params"] / 1e6)
    removed = setting.spread(lambda row: 100 * (share(row, "params") - 1))
    assert params is not None  # every row has them
    assert removed is not None
    times = [
        setting.spread(lambda row, e=engine: row["student"]["latency_ms_by_engine"][e])  # type: ignore[misc]
        for engine in ENGINES
    ]
    ratios = [
        setting.spread(lambda row, e=engine: row["latency_ratio"][e])  # type: ignore[misc]
        for engine in ENGINES
    ]
    return [
        setting.name,
        str(len(setting.rows)),
        "; ".join(filter(None, (missed(row["budget"]) for row in setting.rows))) or "kept",
        f"{params.mean:.2f} M\n{removed.mean:+.1f} %",
        _spread(setting.spread(lambda row: row["student"]["gmacs"]), ".2f"),
        *(
            f"{_spread(time, '.2f')}\nx {_spread(ratio, '.2f')}"
            for time, ratio in zip(times, ratios, strict=True)
        ),
    ]


def _setting_figures(setting: Setting, shown: Sequence[Figure]) -> list[str]:
    values = [
        setting.spread(lambda row, f=figure: f.of(row["student"]))  # type: ignore[misc]
        for figure in shown
    ]
    losses = [
        setting.spread(lambda row, f=figure: points(row, f))  # type: ignore[misc]
        for figure in shown
    ]
    return [
        setting.name,
        *(
            f"{_spread(value, '.3f')}\n{_spread(loss, '+.2f')}"
            for value, loss in zip(values, losses, strict=True)
        ),
    ]


def variants_table(row: Row) -> TextTable:
    """The variants of one run on the engines they were evaluated on, beside the checkpoint."""
    columns = ["variant", "engine", "MB", "ms", "x fp32", *(one.title for one in HEADLINES)]
    sections = []
    for variant, about in row["variants"].items():
        size = f"{about['bytes'] / 1e6:.2f}"
        lines = [
            [
                variant,
                ENGINE_WORDS[engine],
                size,
                f"{one['latency_ms']:.2f}",
                f"{one['ratio_to_fp32']:.2f}",
                *_against_student(row, one),
            ]
            for engine, one in about["engines"].items()
        ]
        # Of an engine that is not here: what was measured when the variant was made.
        elsewhere = [variant, "not here", size, "", "", *_against_student(row, about["accuracy"])]
        sections.append(lines or [elsewhere])
    return TextTable("variants", columns, sections)


def _against_student(row: Row, figures: dict[str, Any]) -> list[str]:
    """Headline figures, each with its points against the student's checkpoint below."""
    values = [figure.of(figures) for figure in HEADLINES]
    base = [figure.of(row["student"]) for figure in HEADLINES]
    losses = [
        None if after is None or before is None else 100 * (after - before)
        for after, before in zip(values, base, strict=True)
    ]
    return [
        f"{_number(value, '.4f')}\n{_number(loss, '+.2f')}"
        for value, loss in zip(values, losses, strict=True)
    ]


def terminal_table(table: TextTable) -> Table:
    """A table for the terminal."""
    shown = Table(title=table.title or None, title_justify="left")
    for index, name in enumerate(table.columns):
        shown.add_column(name, justify="left" if index < 1 else "right", overflow="fold")
    for section in table.sections:
        for row in section:
            shown.add_row(*row)
        shown.add_section()
    return shown


def write_report(
    path: Path, folders: Sequence[Path], rows: Sequence[Row], count: NamedCount
) -> None:
    """Write the HTML page of runs atomically; the first one is shown in detail.

    Where its networks or its data set are no longer there, or are others than those of its
    result, its pictures are left out.
    """
    settings = settings_of(rows)
    first, run = rows[0], _run_of(folders[0], rows[0])
    charts = [
        SvgChart(
            f"Accuracy over latency, {ENGINE_WORDS[engine]}",
            "Student over teacher, measured in turn at batch 1; line: what no other setting "
            "dominates.",
            trade_off(
                settings,
                "latency, teacher = 1",
                lambda row, who, e=engine: 1.0 if who == "teacher" else row["latency_ratio"][e],  # type: ignore[misc]
            ),
        )
        for engine in ENGINES
    ]
    charts.append(
        SvgChart(
            "Accuracy over parameters",
            "As deployed, BatchNorm folded.",
            trade_off(settings, "M parameters", lambda row, who: row[who]["params"] / 1e6),
        )
    )
    text = render(
        __package__ or "",
        _TEMPLATE,
        title=f"Compression of {first['recipe']}",
        first=first,
        shortfalls={row["name"]: found for row in rows if (found := shortfalls(row))},
        cards=list(_cards(first)),
        tables=settings_tables(settings),
        variants=variants_table(first) if len(first["variants"]) > 1 else None,
        charts=charts + _inside(run),
        pictures=_pictures(run, count),
        colors=color_key([*run.recipe.classes] if run else []),
        rows=rows,
        names="\n".join(row["name"] for row in rows),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, text)


def names_in(path: Path) -> list[str]:
    """The names of the runs of a page, or of the table beside it; none in any other file."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return [row["name"] for row in json.loads(text)["rows"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    found = re.search('<main data-runs="([^"]*)">', text)
    return html.unescape(found[1]).split("\n") if found else []


def _cards(row: Row) -> list[tuple[str, str]]:
    cards = [
        (f"{100 * (share(row, 'params') - 1):+.1f} %", "parameters"),
        *(
            (f"x {row['latency_ratio'][engine]:.2f}", f"latency, {ENGINE_WORDS[engine]}")
            for engine in ENGINES
        ),
    ]
    for figure in HEADLINES:
        change = points(row, figure)
        if change is not None:
            cards.append((f"{change:+.2f}", f"points of {figure.title}"))
    return cards


def _run_of(folder: Path, row: Row) -> RunFolder | None:
    """The run in a folder; None where the networks of its result are not there."""
    if not (folder / RECIPE_FILE).is_file():
        return None
    run = RunFolder.of(load_recipe(folder / RECIPE_FILE), folder)
    networks = ((run.teacher, row["teacher"]), (run.student, row["student"]))
    same = all(digest_of(weights(path)) == of["sha256"] for path, of in networks)
    return run if same else None


def _inside(run: RunFolder | None) -> list[SvgChart]:
    """What is known of the channels of a run."""
    if run is None or not (run.plan.is_file() and run.scores.is_file()):
        return []
    plan, conflict = read_plan(run.plan), conflict_summary(load(run.scores))
    teacher = load_checkpoint(run.teacher)
    groups = channel_groups(teacher, description_of(teacher, protect=run.compress.prune.protect))
    prunable = {group.name: group.size for group in groups if not group.protected}
    kept = {name: (len(plan.kept.get(name, range(size))), size) for name, size in prunable.items()}
    return [
        *_widths(run, kept),
        SvgChart(
            "Channels kept",
            "Coupled layers are one group, named by the first; layers that may not be pruned are "
            "left out.",
            channels(kept),
        ),
        SvgChart(
            "Conflict between the tasks",
            "How far the tasks' gradients on a group's filters point apart, at the first step; 0 "
            "where a layer serves one task alone.",
            conflict_map({name: conflict[name] for name in prunable if name in conflict}),
        ),
    ]


def _widths(run: RunFolder, kept: Mapping[str, tuple[int, int]]) -> list[SvgChart]:
    """What was measured of narrower layers, in a run that went by it."""
    if not run.sensitivity.is_file():
        return []
    sensitivity, by_time = Sensitivity.load(run.sensitivity), run.latency_table.is_file()
    return [
        SvgChart(
            "What narrower layers lose",
            "Each group of channels made narrower alone, at the first step: how far the loss of "
            "the task that loses most rises, statistics measured anew, over what is saved. Square: "
            "without the residual block. Filled: as wide as it is in the end, or the next wider.",
            loss_over_cost(sensitivity, {name: left for name, (left, _) in kept.items()}, by_time),
        )
    ]


def _pictures(run: RunFolder | None, count: NamedCount) -> list[FramePair]:
    if run is None:
        return []
    try:
        return list(side_by_side(run.teacher, run.student, run.recipe.validate_on, count))
    except LayoutError:
        return []  # the data set has gone, or its labels


def _spread(spread: Spread | None, form: str) -> str:
    if spread is None:
        return "undefined"
    deviation = "" if spread.deviation is None else f" ± {spread.deviation:{form.lstrip('+')}}"
    return f"{spread.mean:{form}}{deviation}"


def _number(value: float | None, form: str) -> str:
    return "undefined" if value is None else f"{value:{form}}"

"""The pictures of a compression report, drawn by matplotlib into SVG."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from mtc_perception.metrics.figures import HEADLINES
from mtc_perception.metrics.figures import Figure as Accuracy
from offline_compress.pruning.sensitivity import Sensitivity
from offline_compress.report.compression_rows import Row, Setting

# Okabe and Ito: told apart by everyone.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": "#616e7c",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#616e7c",
    "ytick.color": "#616e7c",
    "svg.fonttype": "none",
    "svg.hashsalt": "mtc_perception",
}
_NEAR_TICKS, _FAR_TICKS = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 2, 5)
ROW_HEIGHT_IN = 0.24
HIGHEST_RISE = 10.0
"""Fraction of a loss at which a rise is drawn that is higher."""
NAMED = 8
"""Groups whose names are written: those that can save most."""


def trade_off(settings: Sequence[Setting], x_title: str, x: Callable[[Row, str], float]) -> str:
    """Every headline figure over `x` of a row's `teacher` or `student`, as SVG.

    One mark per setting (mean over its seeds, bars of one standard deviation), a star for each
    teacher, and a line through the settings that no other one dominates.
    """
    rows = [row for setting in settings for row in setting.rows]
    most = max(x(row, who) for row in rows for who in ("teacher", "student"))
    with mpl.rc_context(STYLE):
        page = Figure(figsize=(10.5, 6.4), layout="constrained")
        panels = page.subplots(2, len(HEADLINES) // 2).flat
        for axes, accuracy in zip(panels, HEADLINES, strict=True):
            _trade_off(axes, settings, x, accuracy)
            axes.set_title(accuracy.title, loc="left", fontsize=10)
            axes.set_xlabel(x_title)
            axes.set_xlim(0, 1.1 * most)
            axes.grid(color="#e4e7eb", linewidth=0.7)
        handles, labels = axes.get_legend_handles_labels()
        page.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        return svg(page)


def _trade_off(
    axes: Axes, settings: Sequence[Setting], x: Callable[[Row, str], float], accuracy: Accuracy
) -> None:
    teachers = {row["teacher"]["sha256"]: row for one in settings for row in one.rows}
    stars = [(x(row, "teacher"), accuracy.of(row["teacher"])) for row in teachers.values()]
    axes.plot(*zip(*stars, strict=True), "*", color="#1f2933", markersize=12, label="teacher")
    marks = []
    for index, setting in enumerate(settings):
        across = setting.spread(lambda row: x(row, "student"))
        along = setting.spread(lambda row: accuracy.of(row["student"]))
        if across is None or along is None:
            continue
        axes.errorbar(
            across.mean,
            along.mean,
            along.deviation,
            across.deviation,
            fmt=MARKERS[index // len(COLORS) % len(MARKERS)],
            color=COLORS[index % len(COLORS)],
            elinewidth=1,
            label=setting.name,
        )
        marks.append((across.mean, along.mean))
    if best := front(marks):
        axes.plot(*zip(*best, strict=True), color="#9aa5b1", linewidth=1, zorder=0)


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure over the cost of networks."""

    title: str
    marks: Mapping[str, tuple[float, float]]
    """Name of a network -> cost, figure."""


def networks(panels: Sequence[Panel], x_title: str, columns: int = 2) -> str:
    """Panels side by side, the cost on a logarithmic axis, each network the same mark in all of
    them; a line through those that no other one dominates, as SVG."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.marks))
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        page = Figure(figsize=(10.5, 0.8 + 3.0 * rows), layout="constrained")
        drawn: dict[str, Any] = {}
        for axes, panel in zip(
            page.subplots(rows, columns, squeeze=False).flat, panels, strict=False
        ):
            for name, mark in panel.marks.items():
                index = names.index(name)
                shape = MARKERS[index // len(COLORS) % len(MARKERS)]
                color = COLORS[index % len(COLORS)]
                drawn[name] = axes.plot(*mark, shape, color=color, label=name)[0]
            best = front(list(panel.marks.values()))
            axes.plot(*zip(*best, strict=True), color="#9aa5b1", linewidth=1, zorder=0)
            axes.set_title(panel.title, loc="left", fontsize=10)
            _logarithmic(axes, [cost for cost, _ in panel.marks.values()])
            axes.set_xlabel(x_title)
            axes.grid(color="#e4e7eb", linewidth=0.7)
        for axes in list(page.axes)[len(panels) :]:
            axes.remove()
        known = [name for name in names if name in drawn]
        handles = [drawn[name] for name in known]
        page.legend(handles, known, loc="outside lower center", ncols=4, frameon=False)
        return svg(page)


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis across, its numbers as people write them."""
    near = max(values) < 5 * min(values)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=_NEAR_TICKS if near else _FAR_TICKS))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def front(marks: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The marks (cost, gain) of which no other costs no more and gains more, by cost."""
    best: list[tuple[float, float]] = []
    for cost, gain in sorted(marks, key=lambda mark: (mark[0], -mark[1])):
        if not best or gain > best[-1][1]:
            best.append((cost, gain))
    return best


def channels(kept: Mapping[str, tuple[int, int]]) -> str:
    """Bars of the channels that remain of each group (remaining, of the teacher's), as SVG."""
    with mpl.rc_context(STYLE):
        page = Figure(figsize=(10.5, 1.0 + ROW_HEIGHT_IN * len(kept)), layout="constrained")
        axes = page.subplots()
        rows = range(len(kept))
        axes.barh(rows, [total for _, total in kept.values()], color="#e4e7eb", height=0.75)
        axes.barh(rows, [left for left, _ in kept.values()], color=COLORS[0], height=0.75)
        for row, (left, total) in enumerate(kept.values()):
            axes.text(total, row, f" {left} of {total}", va="center", fontsize=8, color="#616e7c")
        axes.set_yticks(rows, list(kept), fontsize=8)
        axes.set_ylim(len(kept) - 0.4, -0.6)
        axes.set_xlabel("channels")
        return svg(page)


def loss_over_cost(sensitivity: Sensitivity, kept: Mapping[str, int], by_time: bool) -> str:
    """A line per group: the rise of its loss over the milliseconds (or else parameters) that each
    measured width saves, with the widths marked that the group has `kept`, as SVG."""
    kind, scale, unit = (2, 1.0, "ms") if by_time else (0, 1e-3, "thousand parameters")
    parts = {name.split(".")[0]: None for name in sensitivity.groups}
    colors = {part: COLORS[number % len(COLORS)] for number, part in enumerate(parts)}
    ends = []
    with mpl.rc_context(STYLE):
        page = Figure(figsize=(10.5, 6.4), layout="constrained")
        axes = page.subplots()
        for name, widths in sensitivity.groups.items():
            saved = np.array([scale * width.saved[kind] for width in widths])
            rises = 100 * np.minimum(sensitivity.rises(name), HIGHEST_RISE)
            color = colors[name.split(".")[0]]
            narrow = np.array([width.channels > 0 for width in widths])
            axes.plot(saved[narrow], rises[narrow], "o-", color=color, mfc="white", linewidth=1)
            axes.plot(saved[~narrow], rises[~narrow], "s", color=color, mfc="white")
            # The narrowest that was measured and is not narrower than what is left.
            left = kept.get(name, widths[0].channels)
            place = max(i for i, width in enumerate(widths) if width.channels >= left)
            if place:
                mark = "o" if widths[place].channels else "s"
                axes.plot(saved[place], rises[place], mark, color=color)
            ends.append((saved[-1], rises[-1], name))
        for x, y, name in sorted(ends)[-NAMED:]:
            axes.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
        for part, color in colors.items():
            axes.plot([], [], "o-", color=color, label=part)
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_xlabel(f"saved, {unit}")
        axes.set_ylabel("rise of the loss, %")
        axes.grid(color="#e4e7eb", linewidth=0.7)
        page.legend(loc="outside lower center", ncols=len(parts), frameon=False)
        return svg(page)


def conflict_map(conflict: Mapping[str, Mapping[str, float | None]]) -> str:
    """Mean gradient conflict of each group (rows) and pair of tasks (columns), as SVG."""
    pairs = list(next(iter(conflict.values())))
    values = np.array(
        [
            [np.nan if one[pair] is None else one[pair] for pair in pairs]
            for one in conflict.values()
        ]
    )
    with mpl.rc_context(STYLE):
        page = Figure(figsize=(10.5, 1.0 + ROW_HEIGHT_IN * len(conflict)), layout="constrained")
        axes = page.subplots()
        picture = axes.imshow(values, cmap="magma_r", vmin=0, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            dark = value > 0.6 * np.nanmax(values)
            text = "unknown" if np.isnan(value) else f"{value:.3f}"
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "#1f2933",
            )
        axes.set_yticks(range(len(conflict)), list(conflict), fontsize=8)
        axes.set_xticks(range(len(pairs)), pairs)
        page.colorbar(picture, ax=axes, label="mean of max(0, -cos)", pad=0.01)
        return svg(page)


def svg(page: Figure) -> str:
    """A picture as an SVG element, the same whenever it is drawn."""
    buffer = io.StringIO()
    page.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]

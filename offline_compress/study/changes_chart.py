"""The changes of a study as a picture: what lies within the margins is seen at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from offline_compress.report.compression_charts import COLORS, STYLE, svg

Interval = tuple[float, float, float]
"""Change, low and high, in points."""
_PER_MARK_IN = 0.17
_MARGIN = "#e4e7eb"


@dataclass(frozen=True, slots=True)
class ChangesPanel:
    """A set of images."""

    title: str
    margins: Mapping[str, float | None]
    """Title of a figure -> points, on both sides of 0."""
    rows: Mapping[str, Mapping[str, Interval]]
    """Name of a row -> title of a figure -> its interval, as far as there is one."""


def changes(panels: Sequence[ChangesPanel]) -> str:
    """Every row's change against the reference with its interval, the margins shaded, as SVG.

    Rows have the same colour in all panels, and that of their place in the first one.
    """
    names = list(panels[0].rows)
    heights = [len(one.margins) * (len(names) + 1) for one in panels]
    with mpl.rc_context(STYLE):
        page = Figure(
            figsize=(10.5, 0.6 + _PER_MARK_IN * sum(heights) + 0.7 * len(panels)),
            layout="constrained",
        )
        places = page.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
        for axes, panel in zip(places.flat, panels, strict=True):
            _draw(axes, panel, names)
        handles, labels = places.flat[0].get_legend_handles_labels()
        page.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        return svg(page)


def _draw(axes: Axes, panel: ChangesPanel, names: Sequence[str]) -> None:
    step = len(names) + 1
    for place, (figure, margin) in enumerate(panel.margins.items()):
        middle = place * step + (len(names) - 1) / 2
        if margin is not None:
            size = 2 * margin, step - 0.2
            words = "margin" if place == 0 else None
            axes.barh(middle, size[0], size[1], -margin, color=_MARGIN, zorder=0, label=words)
        for index, name in enumerate(names):
            if found := panel.rows.get(name, {}).get(figure):
                change, low, high = found
                axes.errorbar(
                    change,
                    place * step + index,
                    # A bootstrap's interval need not hold the value itself.
                    xerr=[[max(0.0, change - low)], [max(0.0, high - change)]],
                    fmt="o",
                    markersize=4,
                    color=COLORS[index % len(COLORS)],
                    elinewidth=1.5,
                )
    for index, name in enumerate(names):
        axes.errorbar([], [], xerr=[], fmt="o-", color=COLORS[index % len(COLORS)], label=name)
    axes.axvline(0, color="#616e7c", linewidth=0.8, zorder=1)
    middles = [place * step + (len(names) - 1) / 2 for place in range(len(panel.margins))]
    axes.set_yticks(middles, list(panel.margins))
    axes.set_ylim(len(panel.margins) * step - 1.0, -1.0)
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.set_xlabel("points against the reference")
    axes.grid(axis="x", color="#e4e7eb", linewidth=0.7, zorder=0)

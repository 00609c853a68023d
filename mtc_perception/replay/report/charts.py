"""Charts as inline SVG: no library, no script, readable in every browser and printout."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

_WIDTH, _HEIGHT = 1000, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 26
_BAR_WIDTH, _LEGEND_COLUMNS = 600, 3
_DOTS = 1200
"""More than this many images are drawn as the median and the slowest of each step in time."""
_STAGE_COLORS = ("#9aa5b1", "#cbd2d9", "#56b4e9", "#0072b2", "#009e73", "#e69f00", "#cc79a7")

COLUMNS = 470
"""At most so many bars are drawn in a row."""
_STRIP_HEIGHT, _STRIP_GAP = 44, 26

_Paths = dict[str, list[str]]


def latency_timeline(
    times_s: Sequence[float], latencies_ms: Sequence[float], period_ms: float
) -> str:
    """End-to-end latency over time: a dot per image, a red tick below where NaN (no answer).

    Of a long recording only the median and the slowest image of each step in time are drawn, so
    that its page stays small. The dashed line is the camera's period: above it a node that does one
    image at a time has to drop some.
    """
    known = [value for value in latencies_ms if not math.isnan(value)]
    top_ms = _ceiling(max([*known, period_ms]) * 1.05)
    end_s = max([*times_s, 1e-3])

    def x(seconds: float) -> float:
        return _LEFT + seconds / end_s * (_WIDTH - _LEFT - _RIGHT)

    def y(milliseconds: float) -> float:
        return _HEIGHT - _BOTTOM - milliseconds / top_ms * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for step in range(5):
        value = top_ms * step / 4
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
            f'y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text class="tick" text-anchor="end" x="{_LEFT - 6}" y="{y(value) + 4:.1f}">'
            f"{value:g}</text>"
        )
    for step in range(6):
        value = end_s * step / 5
        parts.append(
            f'<text class="tick" text-anchor="{"end" if step == 5 else "middle"}" '
            f'x="{x(value):.1f}" y="{_HEIGHT - 8}">'
            f"{value:.1f} s</text>"
        )
    parts.append(
        f'<line class="period" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
        f'y1="{y(period_ms):.1f}" y2="{y(period_ms):.1f}"/>'
    )
    for seconds, value in _dots(times_s, latencies_ms):
        parts.append(f'<circle cx="{x(seconds):.1f}" cy="{y(value):.1f}" r="2.2"/>')
    gone = zip(times_s, latencies_ms, strict=True)
    for place in sorted({round(x(seconds), 1) for seconds, value in gone if math.isnan(value)}):
        bottom = _HEIGHT - _BOTTOM
        parts.append(
            f'<line class="lost" x1="{place}" x2="{place}" y1="{bottom - 14}" y2="{bottom}"/>'
        )
    return (
        f'<svg class="timeline" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="End-to-end latency over time">{"".join(parts)}</svg>'
    )


def stage_bar(stages_ms: Sequence[tuple[str, float]]) -> str:
    """Where the median image's time goes: one bar, a segment per stage as wide as its time."""
    total = sum(value for _, value in stages_ms) or 1.0
    parts, left = [], 0.0
    for number, (name, value) in enumerate(stages_ms):
        width = value / total * _BAR_WIDTH
        color = _STAGE_COLORS[number % len(_STAGE_COLORS)]
        label = f"{name} {value:.1f} ms"
        parts.append(
            f'<rect x="{left:.1f}" y="0" width="{width:.1f}" height="30" fill="{color}">'
            f"<title>{escape(label)}</title></rect>"
        )
        row, column = divmod(number, _LEGEND_COLUMNS)
        legend_x, legend_y = column * _BAR_WIDTH // _LEGEND_COLUMNS, 44 + row * 22
        parts.append(
            f'<rect x="{legend_x}" y="{legend_y}" width="12" height="12" fill="{color}"/>'
            f'<text class="legend" x="{legend_x + 18}" y="{legend_y + 11}">{escape(label)}</text>'
        )
        left += width
    height = 44 + 22 * math.ceil(len(stages_ms) / _LEGEND_COLUMNS)
    return (
        f'<svg class="stages" viewBox="0 0 {_BAR_WIDTH} {height}" role="img" '
        f'aria-label="Median time per stage">{"".join(parts)}</svg>'
    )


def _dots(times_s: Sequence[float], latencies_ms: Sequence[float]) -> Iterator[tuple[float, float]]:
    """(time, latency) of the images to draw, without those of NaN."""
    known = [
        (seconds, value)
        for seconds, value in zip(times_s, latencies_ms, strict=True)
        if not math.isnan(value)
    ]
    if len(known) <= _DOTS:
        yield from known
        return
    columns = _DOTS // 2
    for column in range(columns):
        part = known[column * len(known) // columns : (column + 1) * len(known) // columns]
        part.sort(key=lambda one: one[1])
        yield part[len(part) // 2]
        yield part[-1]


def _ceiling(value: float) -> float:
    """The next round number that is easy to divide by four."""
    magnitude = 10 ** math.floor(math.log10(value))
    for factor in (1, 2, 4, 6, 8, 10):
        if value <= factor * magnitude:
            return float(factor * magnitude)
    raise AssertionError("10 x magnitude is above any value of this magnitude")


@dataclass(frozen=True, slots=True)
class Strip:
    """One row of bars."""

    name: str
    values: Sequence[float]
    """A figure per image in recorded order, NaN where nothing is known of it."""
    links: Mapping[int, str] = field(default_factory=dict)
    """Images that are shown elsewhere on the page: the place in `values`, and the element's id."""


def metric_strips(rows: Sequence[Strip], lost: Sequence[bool]) -> str:
    """Figures in 0..1; red where images got no answer, grey where there is nothing to tell.

    Where several images share a bar, its dark part is the worst of them and its light part their
    mean.
    """

    def bars(row: Strip, top: float) -> _Paths:
        paths: _Paths = {"unknown": [], "mean": [], "worst": [], "lost": []}
        for x, width, begin, end in _columns(len(row.values)):
            bottom = top + _STRIP_HEIGHT
            known = [value for value in row.values[begin:end] if not math.isnan(value)]
            if any(lost[begin:end]):
                paths["lost"].append(_bar(x, width, bottom, top))
            if known:
                mean = sum(known) / len(known)
                paths["mean"].append(_bar(x, width, bottom, bottom - mean * _STRIP_HEIGHT))
                paths["worst"].append(_bar(x, width, bottom, bottom - min(known) * _STRIP_HEIGHT))
            else:
                paths["unknown"].append(_bar(x, width, bottom, top))
        return paths

    return _strips(rows, bars, lambda _: ("1", "0"))


def change_strips(rows: Sequence[Strip]) -> str:
    """Changes of figures: bars upwards where better, downwards where worse, each row to its scale.

    Where several images share a bar, it is the largest change among them.
    """

    def bars(row: Strip, top: float) -> _Paths:
        paths: _Paths = {"better": [], "worse": []}
        middle, scale = top + _STRIP_HEIGHT / 2, _scale(row)
        for x, width, begin, end in _columns(len(row.values)):
            known = [value for value in row.values[begin:end] if not math.isnan(value)]
            most = max(known, key=abs, default=0.0)
            if most:
                tip = middle - most / scale * _STRIP_HEIGHT / 2
                paths["better" if most > 0 else "worse"].append(_bar(x, width, middle, tip))
        return paths

    return _strips(rows, bars, lambda row: (f"{_scale(row):+.2g}", f"{-_scale(row):+.2g}"))


def _scale(row: Strip) -> float:
    return max((abs(value) for value in row.values if not math.isnan(value)), default=0.0) or 1.0


def _strips(
    rows: Sequence[Strip],
    bars: Callable[[Strip, float], _Paths],
    ticks: Callable[[Strip], tuple[str, str]],
) -> str:
    parts = []
    for number, row in enumerate(rows):
        top = number * (_STRIP_HEIGHT + _STRIP_GAP) + _STRIP_GAP
        high, low = ticks(row)
        parts.append(
            f'<rect class="room" x="{_LEFT}" y="{top}" width="{_WIDTH - _LEFT - _RIGHT}" '
            f'height="{_STRIP_HEIGHT}"/>'
            f'<text text-anchor="end" x="{_LEFT - 6}" y="{top + 9}">{high}</text>'
            f'<text text-anchor="end" x="{_LEFT - 6}" y="{top + _STRIP_HEIGHT}">{low}</text>'
        )
        for kind, path in bars(row, top).items():
            parts.append(f'<path class="{kind}" d="{"".join(path)}"/>')
        parts.append(f'<text class="name" x="{_LEFT}" y="{top - 5}">{escape(row.name)}</text>')
        for index, target in row.links.items():
            x = _LEFT + (index + 0.5) / len(row.values) * (_WIDTH - _LEFT - _RIGHT)
            parts.append(
                f'<a href="#{escape(target)}"><title>image {index}</title>'
                f'<path class="link" d="M{x:.1f} {top + _STRIP_HEIGHT}l-5 9h10z"/></a>'
            )
    height = len(rows) * (_STRIP_HEIGHT + _STRIP_GAP) + _STRIP_GAP
    names = escape(", ".join(row.name for row in rows))
    return (
        f'<svg class="strips" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{names}, of every image">{"".join(parts)}</svg>'
    )


def _columns(count: int) -> Iterator[tuple[float, float, int, int]]:
    """x, width, and the neighbouring images [begin, end) of at most COLUMNS bars."""
    columns = min(count, COLUMNS)
    step = (_WIDTH - _LEFT - _RIGHT) / max(count, 1)
    for column in range(columns):
        begin, end = column * count // columns, (column + 1) * count // columns
        yield _LEFT + begin * step, (end - begin) * step, begin, end


def _bar(x: float, width: float, foot: float, tip: float) -> str:
    return f"M{x:.1f} {foot:.1f}V{tip:.1f}h{width:.2f}V{foot:.1f}z"

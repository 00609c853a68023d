"""Figures of every image of a recording as strips of bars, in inline SVG."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

_WIDTH, _LEFT, _RIGHT = 1000, 48, 12  # those of the timeline that stands above
COLUMNS = 470
"""At most so many bars are drawn in a row."""
_HEIGHT, _GAP = 44, 26

_Paths = dict[str, list[str]]


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
            bottom = top + _HEIGHT
            known = [value for value in row.values[begin:end] if not math.isnan(value)]
            if any(lost[begin:end]):
                paths["lost"].append(_bar(x, width, bottom, top))
            if known:
                mean = sum(known) / len(known)
                paths["mean"].append(_bar(x, width, bottom, bottom - mean * _HEIGHT))
                paths["worst"].append(_bar(x, width, bottom, bottom - min(known) * _HEIGHT))
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
        middle, scale = top + _HEIGHT / 2, _scale(row)
        for x, width, begin, end in _columns(len(row.values)):
            known = [value for value in row.values[begin:end] if not math.isnan(value)]
            most = max(known, key=abs, default=0.0)
            if most:
                tip = middle - most / scale * _HEIGHT / 2
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
        top = number * (_HEIGHT + _GAP) + _GAP
        high, low = ticks(row)
        parts.append(
            f'<rect class="room" x="{_LEFT}" y="{top}" width="{_WIDTH - _LEFT - _RIGHT}" '
            f'height="{_HEIGHT}"/>'
            f'<text text-anchor="end" x="{_LEFT - 6}" y="{top + 9}">{high}</text>'
            f'<text text-anchor="end" x="{_LEFT - 6}" y="{top + _HEIGHT}">{low}</text>'
        )
        for kind, path in bars(row, top).items():
            parts.append(f'<path class="{kind}" d="{"".join(path)}"/>')
        parts.append(f'<text class="name" x="{_LEFT}" y="{top - 5}">{escape(row.name)}</text>')
        for index, target in row.links.items():
            x = _LEFT + (index + 0.5) / len(row.values) * (_WIDTH - _LEFT - _RIGHT)
            parts.append(
                f'<a href="#{escape(target)}"><title>image {index}</title>'
                f'<path class="link" d="M{x:.1f} {top + _HEIGHT}l-5 9h10z"/></a>'
            )
    height = len(rows) * (_HEIGHT + _GAP) + _GAP
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

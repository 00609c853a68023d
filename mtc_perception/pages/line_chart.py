"""Lines over 0..1, as data that the macro `line_chart` of `page_parts.html.j2` draws in SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 330, 200
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: pieces of it, `x,y x,y ...` each, with gaps where it is undefined."""

    name: str
    color: str
    pieces: list[str]


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at a threshold."""

    name: str
    x: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A line chart over 0..1 in both directions."""

    title: str
    x_title: str
    lines: list[Line]
    marks: list[Mark]
    width: int = WIDTH
    height: int = HEIGHT


def line(name: str, index: int, x: Sequence[float] | Any, y: Sequence[float | None] | Any) -> Line:
    """The line through (x, y), both in 0..1, in the colour of this index; None is a gap."""
    pieces: list[list[str]] = [[]]
    for a, b in zip(x, y, strict=True):
        if b is not None:
            pieces[-1].append(f"{float(a) * WIDTH:.1f},{(1 - float(b)) * HEIGHT:.1f}")
        elif pieces[-1]:
            pieces.append([])
    return Line(name, COLORS[index], [" ".join(piece) for piece in pieces if piece])

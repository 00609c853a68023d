"""Two runs side by side: images that both have seen, and by how much their figures changed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtc_perception.replay.records.image_figures import FIGURE_WORDS
from mtc_perception.replay.report.run_view import StreamView
from mtc_perception.replay.results.comparison import pair_places

_APART = 10
"""Images: of neighbours, which look alike, only the one that changed most is shown."""


@dataclass(frozen=True, slots=True, eq=False)
class StreamPair:
    """One stream in both runs."""

    first: StreamView
    second: StreamView
    places: list[tuple[int, int]]
    """Where in the lists of both an image is, for each image that both have."""
    changes: dict[str, list[float]]
    """Second minus first per figure and image, NaN where either does not have it."""

    def answered(self, place: int) -> bool:
        """Whether both runs have an answer to an image."""
        a, b = self.places[place]
        return not (self.first.lost[a] or self.second.lost[b])


@dataclass(frozen=True, slots=True, eq=False)
class Changed:
    """One image whose figure changed much."""

    pair: StreamPair
    figure: str
    place: int
    """In `pair.places` and its changes."""

    @property
    def change(self) -> float:
        return self.pair.changes[self.figure][self.place]


def pair_streams(first: Sequence[StreamView], second: Sequence[StreamView]) -> list[StreamPair]:
    """The streams that both runs have, by name; images by stamp, equal ones by order."""
    there = {one.result.name: one for one in second}
    return [_pair(one, there[one.result.name]) for one in first if one.result.name in there]


def most_changed(pairs: Sequence[StreamPair], sign: int, count: int) -> list[Changed]:
    """At most `count` images per figure that changed most to the side of `sign`, 1 or -1.

    Of those that both runs have answered: one that got lost has no answer to be looked at.
    """
    chosen = []
    for figure in FIGURE_WORDS:
        found = [
            Changed(pair, figure, place)
            for pair in pairs
            for place, value in enumerate(pair.changes.get(figure, ()))
            if value * sign > 0 and pair.answered(place)
        ]
        found.sort(key=lambda one: -sign * one.change)
        chosen += list(_apart(found))[:count]
    return chosen


def _apart(ranking: Sequence[Changed]) -> Iterator[Changed]:
    taken: dict[int, list[int]] = {}
    for one in ranking:
        near = taken.setdefault(id(one.pair), [])
        if all(abs(one.place - other) >= _APART for other in near):
            near.append(one.place)
            yield one


def _pair(first: StreamView, second: StreamView) -> StreamPair:
    places = pair_places(first.stamps_ns, second.stamps_ns)
    shared = [name for name in first.figures if name in second.figures]
    changes = {
        name: [second.figures[name][b] - first.figures[name][a] for a, b in places]
        for name in shared
    }
    known = {
        name: values
        for name, values in changes.items()
        if not all(math.isnan(value) for value in values)
    }
    return StreamPair(first, second, places, known)

"""The HTML page of a comparison: two runs of the same recordings, image by image.

The images that changed most are drawn anew, from the recording and the two networks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtc_perception.core.letterbox import to_rgb
from mtc_perception.core.overlay import color_key, draw_truth
from mtc_perception.metrics.figures import unit_of
from mtc_perception.pages import render
from mtc_perception.pages.line_chart import Chart, Line, line
from mtc_perception.pages.pictures import Picture, PictureGroup, Rgb, data_uri, jpeg, shrink
from mtc_perception.replay.recordings.bag_labels import TruthTopics
from mtc_perception.replay.recordings.labels import labelled_frames
from mtc_perception.replay.recordings.recording import LabelledFrame, Notes, SourceFrame
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.replay.records.image_figures import FIGURE_WORDS
from mtc_perception.replay.records.judge import FrameJudge
from mtc_perception.replay.report.charts import COLUMNS, Strip, change_strips
from mtc_perception.replay.report.run_page import MOST_STREAMS, PAGE_FILE, Card
from mtc_perception.replay.report.views import (
    Changed,
    StreamPair,
    StreamView,
    latency_rows,
    most_changed,
    pair_streams,
    precision_curve,
    read_streams,
    times_ms,
)
from mtc_perception.replay.results.run_result import classes_of, read_result
from mtc_perception.replay.stream.gallery import draw_record
from mtc_perception.replay.stream.task import StreamResult
from mtc_perception.runtime.perceiver import Selection
from mtc_perception.runtime.perceiver_pool import PerceiverPool
from mtc_perception.util.errors import ImageError, UserError
from mtc_perception.util.files import write_text_atomic

_TEMPLATE = "compare_page.html.j2"
_PICTURES = 3
"""Per figure and direction."""
_WIDTH_PX = 480


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs."""

    title: str
    result: Mapping[str, Any]
    latencies: list[tuple[str, list[str]]]


def write_comparison(
    out: Path, first: Path, second: Path, comparison: Mapping[str, Any], tick: Callable[[], None]
) -> Path:
    """Write the page of two runs and their comparison into the folder `out`, which exists.

    `tick` is called for every image drawn. Raises UserError where a folder holds no run.
    """
    results = read_result(first), read_result(second)
    streams = read_streams(first, results[0]), read_streams(second, results[1])
    pairs = pair_streams(*streams)
    worse, better = (most_changed(pairs, sign, _PICTURES) for sign in (-1, 1))
    drawn, problems = _redrawn(pairs, [*worse, *better], tick)
    text = render(
        __package__ or "",
        _TEMPLATE,
        a=_side(first, results[0]),
        b=_side(second, results[1]),
        comparison=comparison,
        cards=list(_cards(comparison)),
        rows=[_row(figure) for figure in comparison["figures"]],
        streams=[_charts(pair, [*worse, *better], drawn) for pair in pairs[:MOST_STREAMS]],
        more_streams=max(len(pairs) - MOST_STREAMS, 0),
        chart=_precision_chart(streams),
        galleries=[*_galleries("worse", worse, drawn), *_galleries("better", better, drawn)],
        problems=problems,
        colors=color_key(classes_of(results[0])) | color_key(classes_of(results[1])),
        data_uri=data_uri,
    )
    return write_text_atomic(out / PAGE_FILE, text)


def _side(run: Path, result: Mapping[str, Any]) -> Side:
    return Side(run.name, result, latency_rows(times_ms(result)))


def _cards(comparison: Mapping[str, Any]) -> Iterator[Card]:
    different = f"{comparison['different_answers']} / {comparison['images']}"
    yield Card(different, "answers differ")
    moods = {"better": "good", "worse": "alarm"}
    for verdict in ("better", "worse", "no difference"):
        count = sum(figure["verdict"] == verdict for figure in comparison["figures"])
        yield Card(str(count), f"figures: {verdict}", moods.get(verdict, "") if count else "")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of figures."""

    words: str
    cells: list[str]
    mood: str


def _row(figure: Mapping[str, Any]) -> Row:
    digits = 1 if unit_of(figure["name"]) == "ms" else 4

    def text(value: float | None, sign: str = "") -> str:
        return "undefined" if value is None else format(value, f"{sign}.{digits}f")

    low, high = figure["low"], figure["high"]
    interval = "" if low is None or high is None else f"{text(low, '+')} to {text(high, '+')}"
    cells = [text(figure["a"]), text(figure["b"]), text(figure["change"], "+")]
    mood = {"better": "passed", "worse": "broken"}.get(figure["verdict"], "")
    return Row(figure["name"], [*cells, interval, figure["verdict"]], mood)


@dataclass(frozen=True, slots=True)
class PairCharts:
    """What is drawn of one stream."""

    name: str
    strips: str
    shared: bool
    """Images share a bar."""


@dataclass(frozen=True, slots=True, eq=False)
class Redrawn:
    """One image as both networks see it."""

    first: Rgb
    second: Rgb
    truth: Rgb | None
    """None where it has no labels."""
    faithful: bool
    """Both answers are those of the runs, to the last bit."""


_Drawn = dict[tuple[str, int], Redrawn]
"""By name of the stream and index of the image."""


def _charts(pair: StreamPair, chosen: Sequence[Changed], drawn: _Drawn) -> PairCharts:
    rows = []
    for figure, values in pair.changes.items():
        links = {
            one.place: _anchor(one)
            for one in chosen
            if one.pair is pair and one.figure == figure and _key(one) in drawn
        }
        rows.append(Strip(FIGURE_WORDS[figure], values, links))
    return PairCharts(pair.first.result.name, change_strips(rows), len(pair.places) > COLUMNS)


def _redrawn(
    pairs: Sequence[StreamPair], chosen: Sequence[Changed], tick: Callable[[], None]
) -> tuple[_Drawn, list[str]]:
    """The chosen images drawn, and why those of some streams are not."""
    drawn: _Drawn = {}
    problems = []
    with PerceiverPool() as perceivers:
        for pair in pairs:
            wanted = {
                _key(one)[1]: (
                    pair.first.digests[pair.places[one.place][0]],
                    pair.second.digests[pair.places[one.place][1]],
                )
                for one in chosen
                if one.pair is pair
            }
            name = pair.first.result.name
            try:
                found = redraw(pair.first.result, pair.second.result, wanted, perceivers, tick)
            except UserError as error:
                problems.append(f"{name}: {error}")
                continue
            drawn |= {(name, index): one for index, one in found.items()}
    return drawn, problems


def _galleries(words: str, chosen: Sequence[Changed], drawn: _Drawn) -> Iterator[PictureGroup]:
    for figure, name in FIGURE_WORDS.items():
        pictures = [
            _picture(one, drawn[_key(one)])
            for one in chosen
            if one.figure == figure and _key(one) in drawn
        ]
        if pictures:
            yield PictureGroup(f"Got {words} most: {name}", pictures)


def _picture(one: Changed, drawn: Redrawn) -> Picture:
    first, second = one.pair.first, one.pair.second
    a, b = one.pair.places[one.place]
    before, after = first.figures[one.figure][a], second.figures[one.figure][b]
    caption = (
        f"{first.result.name}, image {first.indices[a]} at {first.times_s[a]:.2f} s: "
        f"{before:.3f} to {after:.3f}"
    )
    if not drawn.faithful:
        caption += "; drawn anew, and not quite as in the runs"
    views = {"A": drawn.first, "B": drawn.second}
    if drawn.truth is not None:
        views["labels"] = drawn.truth
    small = {name: jpeg(shrink(view, _WIDTH_PX)) for name, view in views.items()}
    return Picture(caption, small, _anchor(one))


def _precision_chart(streams: tuple[list[StreamView], list[StreamView]]) -> Chart | None:
    lines: list[Line] = []
    for name, side in zip("AB", streams, strict=True):
        curve = precision_curve([stream.detection for stream in side])
        if curve is not None:
            lines.append(line(name, len(lines), *curve))
    if not lines:
        return None
    return Chart("Objects at IoU 0.5: precision over recall", "recall", lines, [])


def _key(one: Changed) -> tuple[str, int]:
    a, _ = one.pair.places[one.place]
    return one.pair.first.result.name, one.pair.first.indices[a]


def _anchor(one: Changed) -> str:
    number, index = one.pair.first.result.number, _key(one)[1]
    return f"s{number}-{one.figure}-{index}"


def redraw(
    first: StreamResult,
    second: StreamResult,
    wanted: Mapping[int, tuple[str, str]],
    perceivers: PerceiverPool,
    tick: Callable[[], None],
) -> dict[int, Redrawn]:
    """Images of one stream of two runs by their index, as far as they can be decoded.

    `wanted` holds the digests of the answers in the two runs by index; `tick` is called for every
    image drawn. Raises UserError where the recording or a network is gone.
    """
    drawn: dict[int, Redrawn] = {}
    for frame, truth in _frames(first):
        if frame.index > max(wanted, default=-1):
            break
        if frame.index not in wanted:
            continue
        tick()
        try:
            rgb = to_rgb(frame.pixels.decode())
        except ImageError:
            continue
        views, digests = [], []
        for run in (first, second):
            picture, digest = _answer(run, frame, rgb, perceivers)
            views.append(picture)
            digests.append(digest)
        drawn[frame.index] = Redrawn(
            views[0],
            views[1],
            None if truth is None else draw_truth(rgb, truth, first.class_map),
            tuple(digests) == wanted[frame.index],
        )
    return drawn


def _frames(run: StreamResult) -> Iterator[LabelledFrame]:
    """The images of a stream with the labels it was judged by."""
    topics = None if run.truth is None else TruthTopics(**run.truth)
    source = open_source(Path(run.path), run.topic, truth=topics)
    labels = None if run.labels is None else Path(run.labels)
    return labelled_frames(source, labels, None, Notes())


def _answer(
    run: StreamResult, frame: SourceFrame, rgb: Rgb, perceivers: PerceiverPool
) -> tuple[Rgb, str]:
    """The image `rgb` with the answer of a run's network, and the answer's digest."""
    engine = run.engine
    selection = Selection(Path(run.bundle["path"]), engine["name"], engine["precision"])
    with perceivers.lend(selection) as lent:
        manifest = lent.bundle.manifest
        perception = lent.perceive(frame.pixels.decode(lent.input_size))
    judge = FrameJudge(
        manifest.thresholds, manifest.class_map, manifest.max_detections, Notes(), manifest.tasks
    )
    record = judge.answered(frame, perception, None)
    return draw_record(rgb, record, perception), record.digest

"""The HTML page of a run: one file, made of the run's folder alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mtc_perception.core.overlay import color_key
from mtc_perception.pages import render
from mtc_perception.pages.pictures import Picture, PictureGroup, data_uri
from mtc_perception.replay.records.image_figures import FIGURE_WORDS
from mtc_perception.replay.report.charts import (
    COLUMNS,
    Strip,
    latency_timeline,
    metric_strips,
    stage_bar,
)
from mtc_perception.replay.report.views import (
    DEPLOYED,
    LargeObjects,
    StreamView,
    frame_rows,
    large_objects,
    latency_rows,
    live_rows,
    metric_rows,
    precision_chart,
    read_streams,
    times_ms,
)
from mtc_perception.replay.results.run_result import classes_of, read_result
from mtc_perception.replay.stream.annotated import ANNOTATED
from mtc_perception.replay.stream.gallery import PICTURES, Worst
from mtc_perception.replay.stream.video_file import find_video
from mtc_perception.util.files import write_text_atomic

PAGE_FILE = "index.html"
_TEMPLATE = "run_page.html.j2"
MOST_STREAMS = 20
"""The timelines of more would make the page too large to open."""
_PICTURES = 4
"""Per figure, over all streams."""
_STAGES = ("receive", "wait", "read", "preprocess", "inference", "decode", "publish")
_STREAM_COLUMNS = {
    "images": ("frames_in",),
    "processed": ("frames_processed",),
    "dropped": ("frames_dropped",),
    "p50, ms": ("latency_ms", "end_to_end", "p50"),
    "p95, ms": ("latency_ms", "end_to_end", "p95"),
    "recall": ("detection", "recall_at_threshold"),
    "precision": ("detection", "precision_at_threshold"),
    "drivable mIoU": ("drivable", "miou"),
    "lane IoU": ("lane", "iou"),
}


@dataclass(frozen=True, slots=True)
class Card:
    """One large figure."""

    value: str
    words: str
    mood: str = ""
    """`good`, `alarm` or nothing."""


@dataclass(frozen=True, slots=True)
class StreamCharts:
    """What is drawn of one stream."""

    name: str
    video: str
    """Its address, seen from the page; empty without."""
    timeline: str
    strips: str
    lost: int
    shared: bool
    """Images share a bar."""


def write_page(run: Path) -> Path:
    """Write the page of a run that has its result. Raises UserError."""
    result = read_result(run)
    streams = read_streams(run, result)
    chosen = _worst_of_all(streams)
    large = large_objects(streams)
    text = render(
        __package__ or "",
        _TEMPLATE,
        title=result.get("scenario") or run.name,
        result=result,
        cards=list(_cards(result, large)),
        streams=[_charts(stream, chosen) for stream in streams[:MOST_STREAMS]],
        more_streams=max(len(streams) - MOST_STREAMS, 0),
        latencies=latency_rows(times_ms(result)),
        stages=stage_bar(_stages(result["latency_ms"])),
        frames=frame_rows(result),
        figures=list(_figures(result, large)),
        chart=precision_chart(result, streams),
        stream_columns=["stream", *_STREAM_COLUMNS],
        stream_rows=[_stream_row(one) for one in result["streams"]],
        galleries=list(_galleries(chosen)),
        colors=color_key(classes_of(result)),
        data_uri=data_uri,
    )
    return write_text_atomic(run / PAGE_FILE, text)


def _cards(result: Mapping[str, Any], large: LargeObjects | None) -> Iterator[Card]:
    checks = result.get("checks") or []
    if checks:
        passed = sum(bool(check["passed"]) for check in checks)
        mood = "good" if passed == len(checks) else "alarm"
        yield Card(f"{passed} / {len(checks)}", "limits kept", mood)
    whole = result["frames_processed"] == result["frames_in"]
    mood = "good" if whole else "alarm"
    yield Card(f"{result['frames_processed']} / {result['frames_in']}", "images answered", mood)
    if result["mode"] == "live":
        lost = result["frames_dropped"], result["frames_stale"]
        yield Card(f"{lost[0]} + {lost[1]}", "dropped + stale", "alarm" if any(lost) else "")
    for quantile in ("p50", "p95", "p99"):
        value = result["latency_ms"].get("end_to_end", {}).get(quantile)
        if value is not None:
            yield Card(f"{value:.{0 if value >= 100 else 1}f} ms", f"end to end, {quantile}")
    if result["mode"] == "lockstep" and result["frames_per_s"]:
        yield Card(f"{result['frames_per_s']:.1f}", "images per second")
    if large:
        yield Card(large.share, large.words)
    for figure in DEPLOYED:
        if figure.task in result:
            value = figure.of(result)
            yield Card("undefined" if value is None else f"{value:.3f}", figure.title)


def _figures(
    result: Mapping[str, Any], large: LargeObjects | None
) -> Iterator[tuple[str, list[tuple[str, str]], str]]:
    """(heading, rows, words below) of the tables of figures."""
    live = result["mode"] == "live"
    accuracy = metric_rows(result, live)
    words = f"Over {result['labelled_frames']} labelled images; one without an answer is a miss."
    if large:
        words += f" {large.explanation}."
    if accuracy:
        yield "Accuracy", accuracy, words
    else:
        yield "Accuracy", [], "No ground truth."
    if rows := metric_rows(result.get("answered", {}), live):
        yield "Accuracy of the answers alone", rows, "Without the images that got none."
    if agreement := result.get("agreement"):
        rows = metric_rows(agreement, live)
        yield "Agreement with the reference network", rows, "Its answers taken for labels."
    if rows := live_rows(result):
        yield "The node, live", rows, ""
    stability = result.get("stability") or {}
    rows = [
        (words, f"{stability[task][name]:.3f}")
        for task, name, words in (
            ("detection", "persistence", "objects found again"),
            ("drivable", "iou", "drivable area, IoU"),
            ("lane", "iou", "lane lines, IoU"),
        )
        if stability.get(task, {}).get(name) is not None
    ]
    if rows:
        yield "From image to image", rows, f"Over {stability['pairs']} pairs of neighbours."


def _stages(latency_ms: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float]]:
    """Median times that make up the time end to end."""
    stages = [(name, latency_ms[name].get("p50", 0.0)) for name in _STAGES if name in latency_ms]
    if "published" in latency_ms:
        ends = (latency_ms[name].get("p50", 0.0) for name in ("end_to_end", "published"))
        received, published = ends
        stages.append(("delivery", max(received - published, 0.0)))
    return stages


def _charts(stream: StreamView, chosen: Sequence[tuple[StreamView, Worst]]) -> StreamCharts:
    links: dict[str, dict[int, str]] = {}
    for owner, one in chosen:
        if owner is stream:
            links.setdefault(one.figure, {})[stream.place(one.index)] = _anchor(stream, one)
    rows = [
        Strip(FIGURE_WORDS[name], values, links.get(name, {}))
        for name, values in stream.figures.items()
    ]
    timeline = ""
    if stream.stamps_ns:
        rate = stream.result.live["rate"] if stream.result.live else 1.0
        period_ms = 1e3 / stream.result.rate_hz / rate
        timeline = latency_timeline(stream.times_s, stream.latencies_ms, period_ms)
    return StreamCharts(
        stream.result.name,
        _video(stream),
        timeline,
        metric_strips(rows, stream.lost) if rows else "",
        sum(stream.lost),
        len(stream.lost) > COLUMNS,
    )


def _video(stream: StreamView) -> str:
    path = find_video(stream.folder, ANNOTATED)
    return "" if path is None else quote("/".join(path.parts[-3:]))


def _worst_of_all(streams: Sequence[StreamView]) -> list[tuple[StreamView, Worst]]:
    """The worst images of the run by each figure, figures in the order of `FIGURE_WORDS`."""
    chosen = []
    for name in FIGURE_WORDS:
        ranking = [
            (stream, one) for stream in streams for one in stream.worst if one.figure == name
        ]
        ranking.sort(key=lambda pair: pair[1].value)
        chosen += ranking[:_PICTURES]
    return chosen


def _galleries(chosen: Sequence[tuple[StreamView, Worst]]) -> Iterator[PictureGroup]:
    for name, words in FIGURE_WORDS.items():
        pictures = [_picture(stream, one) for stream, one in chosen if one.figure == name]
        if pictures:
            yield PictureGroup(f"Worst images: {words}", pictures)


def _picture(stream: StreamView, one: Worst) -> Picture:
    folder = stream.folder / PICTURES
    views = {"answer": (folder / one.answer).read_bytes()}
    if one.truth is not None:
        views["labels"] = (folder / one.truth).read_bytes()
    seconds = stream.times_s[stream.place(one.index)]
    caption = f"{stream.result.name}, image {one.index} at {seconds:.2f} s: {one.value:.3f}"
    return Picture(caption, views, _anchor(stream, one))


def _anchor(stream: StreamView, one: Worst) -> str:
    return f"s{stream.result.number}-{one.figure}-{one.index}"


def _stream_row(stream: Mapping[str, Any]) -> list[str]:
    row = [stream["name"]]
    for path in _STREAM_COLUMNS.values():
        value: Any = stream
        for key in path:
            value = value.get(key) if value is not None else None
        row.append(_cell(value, digits=1 if path[0] == "latency_ms" else 3))
    return row


def _cell(value: float | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)

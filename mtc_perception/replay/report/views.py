"""Runs as pages and terminals show them: series over images, curves, changes, rows of tables."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtc_perception.metrics.detection import RECALLS, DetectionMetric
from mtc_perception.metrics.figures import (
    BRIEF,
    CLASS_FIGURES,
    COUNT_LABELS,
    STAGE_LABELS,
    figures,
)
from mtc_perception.pages.line_chart import WIDTH, Chart, Line, Mark, line
from mtc_perception.replay.records.image_figures import FIGURE_WORDS, image_figures
from mtc_perception.replay.records.record import read_frames, read_times
from mtc_perception.replay.results.comparison import pair_places
from mtc_perception.replay.results.run_result import stream_folder
from mtc_perception.replay.stream.gallery import APART, PICTURES, Worst, read_worst
from mtc_perception.replay.stream.task import StreamResult

DEPLOYED = figures(
    *("detection.recall_at_threshold", "detection.precision_at_threshold"),
    *("drivable.miou", "lane.iou"),
)
"""Of the answers as the vehicle gets them: what pages begin with."""
LARGE_PX = 32.0
"""Of the image: what both sides of a large object have at least."""
_DEPLOYED_DETECTION = DEPLOYED[:2]
_WHOLE_DETECTION = tuple(
    # `recall` says nothing of one network: with every detection counted it is near 1 of any.
    one
    for one in BRIEF
    if one.task == "detection" and one.key != "recall"
)
_MASKS = tuple(one for one in BRIEF if one.task != "detection")


@dataclass(slots=True, eq=False)
class StreamView:
    """One stream; the lists have an entry per image, in recorded order."""

    result: StreamResult
    folder: Path
    stamps_ns: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    """Of the answers."""
    indices: list[int] = field(default_factory=list)
    """Of the images in the recording."""
    latencies_ms: list[float] = field(default_factory=list)
    """End to end, NaN without an answer."""
    lost: list[bool] = field(default_factory=list)
    """No answer came."""
    figures: dict[str, list[float]] = field(default_factory=dict)
    """By those of `FIGURE_WORDS` that any image has; NaN where one has not."""
    worst: list[Worst] = field(default_factory=list)
    detection: DetectionMetric = field(default_factory=DetectionMetric)
    """Against the labels."""
    agreement: DetectionMetric = field(default_factory=DetectionMetric)
    """Against the reference network."""
    large: DetectionMetric = field(default_factory=DetectionMetric)
    """The deployed detections against labels of at least `LARGE_PX`, smaller ones to be ignored;
    whatever their classes."""

    @property
    def times_s(self) -> list[float]:
        """Since the first stamp."""
        first_ns = min(self.stamps_ns, default=0)
        return [(stamp_ns - first_ns) / 1e9 for stamp_ns in self.stamps_ns]

    def place(self, index: int) -> int:
        """Where in the lists the image of this index is."""
        return self.indices.index(index)


def read_streams(run: Path, result: Mapping[str, Any]) -> list[StreamView]:
    """The streams of a run and its result. Raises UserError where they are not in its folder."""
    return [_read_stream(stream_folder(run, stream)) for stream in result["streams"]]


def _read_stream(folder: Path) -> StreamView:
    view = StreamView(StreamResult.read(folder), folder)
    answered = {index: times.get("end_to_end", np.nan) for index, times in read_times(folder)}
    found: list[dict[str, float]] = []
    for record in read_frames(folder):
        view.indices.append(record.index)
        view.stamps_ns.append(record.stamp_ns)
        view.digests.append(record.digest)
        view.lost.append(record.status != "processed")
        view.latencies_ms.append(answered.get(record.index, np.nan))
        found.append(image_figures(record))
        for metric, evidence in (
            (view.detection, record.evidence),
            (view.agreement, record.agreement),
        ):
            if evidence is not None and evidence.detection is not None:
                metric.add(evidence.detection)
        if record.truth_boxes is not None:
            sides = record.truth_boxes[:, 2:] - record.truth_boxes[:, :2]
            ignore = sides.min(axis=1, initial=np.inf) < LARGE_PX
            if record.truth_ignore is not None:
                ignore |= record.truth_ignore
            view.large.update(record.boxes, record.scores, record.truth_boxes, ignore)
    names = {name for one in found for name in one}
    view.figures = {
        name: [one.get(name, np.nan) for one in found] for name in FIGURE_WORDS if name in names
    }
    view.worst = read_worst(folder / PICTURES)
    return view


def precision_curve(metrics: list[DetectionMetric]) -> tuple[Any, Any] | None:
    """Recalls and precisions [101] of all of `metrics` together; None without any object."""
    whole = DetectionMetric()
    for metric in metrics:
        whole.merge(metric)
    return (RECALLS, whole.compute().precision) if whole.objects else None


def precision_chart(result: Mapping[str, Any], streams: list[StreamView]) -> Chart | None:
    """Precision over recall, against the labels and against the reference network."""
    lines: list[Line] = []
    for name, metrics in (
        ("against the labels", [stream.detection for stream in streams]),
        ("against the reference", [stream.agreement for stream in streams]),
    ):
        curve = precision_curve(metrics)
        if curve is not None:
            lines.append(line(name, len(lines), *curve))
    if not lines:
        return None
    judged = result.get("detection") or result.get("agreement", {}).get("detection") or {}
    recall = judged.get("recall_at_threshold")
    threshold = result["thresholds"]["score"]
    marks = [] if recall is None else [Mark(f"score {threshold:g}", recall * WIDTH)]
    return Chart("Objects at IoU 0.5: precision over recall", "recall", lines, marks)


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
        if all(abs(one.place - other) >= APART for other in near):
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


def metric_rows(metrics: Mapping[str, Any], live: bool) -> list[tuple[str, str]]:
    """(what, value) of the accuracy figures that there are.

    A `live` node publishes no detection below its score threshold: figures over all thresholds
    would be cut off there, and worse than the network is.
    """
    rows = []
    for figure in _DEPLOYED_DETECTION + (() if live else _WHOLE_DETECTION) + _MASKS:
        if figure.task in metrics:
            value = figure.of(metrics)
            rows.append((figure.title, "undefined" if value is None else f"{value:.3f}"))
    for name, one in metrics.get("detection", {}).get("classes", {}).items():
        for figure in _DEPLOYED_DETECTION if live else CLASS_FIGURES:
            value = figure.of({"detection": one})
            label = f"{name}, {figure.label}"
            rows.append((label, "undefined" if value is None else f"{value:.3f}"))
    return rows


@dataclass(frozen=True, slots=True)
class LargeObjects:
    """How many there are of those of `LARGE_PX`, and of others, and how many were found."""

    objects: int
    found: int
    smaller: int

    @property
    def share(self) -> str:
        return f"{self.found / self.objects:.3f}"

    @property
    def words(self) -> str:
        return f"objects of {LARGE_PX:g} pixels and more, found"

    @property
    def explanation(self) -> str:
        return (
            f"{self.found} of the {self.objects} labelled objects at least {LARGE_PX:g} pixels"
            f" wide and high were found ({self.share}); the other {self.smaller} are smaller"
        )


def large_objects(streams: Sequence[StreamView]) -> LargeObjects | None:
    """Those of all `streams`; None without any, or where all are large.

    Recall counts a vehicle a few pixels wide as much as the one in front.
    """
    parts = [stream.large.evidence() for stream in streams]
    objects = sum(part.objects for part in parts)
    found = sum(int((part.right & 1).sum()) for part in parts)
    smaller = sum(stream.detection.objects for stream in streams) - objects
    return LargeObjects(objects, found, smaller) if objects and smaller > 0 else None


def live_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value) of the figures that only a live run has."""
    live = result.get("live")
    if not live:
        return []
    first_ms = live["time_to_first_output_ms"]
    return [
        ("node ready after", f"{live['ready_s']:.1f} s"),
        ("first output after", "never" if first_ms is None else f"{first_ms:.1f} ms"),
        ("played late, at most", f"{live['played_late_ms_max']:.1f} ms"),
    ]


def times_ms(result: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Percentiles by stage, and of a live run the jitter of the last, `end_to_end`."""
    live = result.get("live")
    return result["latency_ms"] | ({"jitter": live["jitter_ms"]} if live else {})


def frame_rows(result: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(what, number) of images."""
    return [(words, result[name]) for name, words in COUNT_LABELS.items() if name in result]


def latency_rows(latency_ms: Mapping[str, Mapping[str, float]]) -> list[tuple[str, list[str]]]:
    """(stage, [p50, p95, p99, max]) in ms, of the stages there are."""
    return [
        (words, [_ms(latency_ms[stage].get(q)) for q in ("p50", "p95", "p99", "max")])
        for stage, words in STAGE_LABELS.items()
        if stage in latency_ms
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

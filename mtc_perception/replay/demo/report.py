"""From a live run to the files of a report: summary, video, pictures, page."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mtc_perception.core.letterbox import to_rgb
from mtc_perception.core.perception import Perception
from mtc_perception.metrics.tasks import GroundTruth
from mtc_perception.replay.live.protocol import Published
from mtc_perception.replay.live.result import LiveResult
from mtc_perception.replay.recordings.recording import FrameSource, Notes, SourceFrame
from mtc_perception.replay.report.demo_page import render_page
from mtc_perception.replay.report.page_pictures import Gallery, Picture
from mtc_perception.replay.report.pictures import (
    VIDEO_WIDTH,
    Rgb,
    VideoFile,
    add_caption,
    draw_answer,
    draw_truth,
    jpeg,
    shrink,
)
from mtc_perception.util.files import write_text_atomic

_PICTURE_WIDTH = 720
_EXTREMES = 3
_SAMPLES = 6

OnFrame = Callable[[int], None]


def write_report(
    out: Path,
    source: FrameSource,
    result: LiveResult,
    classes: Sequence[str],
    summary: dict[str, Any],
    agreement: dict[int, float],
    on_frame: OnFrame,
) -> list[Path]:
    """Write `annotated.webm`, `index.html` and `summary.json` to `out`, each when complete.

    `classes` are the bundle's, `agreement` is that of `Scores`; `on_frame` gets the number of
    images drawn so far. Raises SourceError and ReplayError.
    """
    picks = _choose(result, agreement)
    wanted = {one.source_stamp_ns for _, chosen in picks for one in chosen}
    drawn: dict[int, tuple[Rgb, Rgb]] = {}
    captions: dict[int, str] = {}
    video = VideoFile(out, "annotated", result.source.rate_hz)
    try:
        for number, (one, frame) in enumerate(_played_frames(source, result), start=1):
            rgb = to_rgb(frame.pixels.decode())
            answer = result.perception(one, classes)
            picture = draw_answer(rgb, answer, classes)
            if one.source_stamp_ns in wanted:
                drawn[one.source_stamp_ns] = (rgb, picture)
            words = captions[one.source_stamp_ns] = _words(result, one, answer)
            video.add(add_caption(shrink(picture, VIDEO_WIDTH), words, alarm=answer is None))
            on_frame(number)
        video_path = video.finish()
    finally:
        video.discard()
    truths = _truths(source, wanted) if agreement else {}
    galleries = []
    for title, chosen in picks:
        pictures = [_picture(one, drawn, captions, truths, agreement) for one in chosen]
        galleries.append(Gallery(title, pictures))
    page = render_page(summary, result, galleries, video_path.name)
    return [
        write_text_atomic(out / "index.html", page),
        video_path,
        write_text_atomic(out / "summary.json", json.dumps(summary, indent=2) + "\n"),
    ]


def _choose(result: LiveResult, agreement: dict[int, float]) -> list[tuple[str, list[Published]]]:
    """Which images to show, under which heading."""
    answered = [one for one in result.published if result.frame(one) is not None]
    lost = [one for one in result.published if result.frame(one) is None]
    slowest = sorted(answered, key=result.latency_ms, reverse=True)
    by_truth = sorted(
        (one for one in answered if one.source_stamp_ns in agreement),
        key=lambda one: agreement[one.source_stamp_ns],
    )
    worst = by_truth[:_EXTREMES]
    best = by_truth[::-1][: min(_EXTREMES, len(by_truth) - len(worst))]
    step = max(len(answered) // _SAMPLES, 1)
    samples = [] if by_truth else answered[step // 2 :: step][:_SAMPLES]
    return [
        ("Best agreement with the ground truth (right)", best),
        ("Worst agreement with the ground truth (right)", worst),
        ("Samples", samples),
        ("Slowest images", slowest[:_EXTREMES]),
        ("Images without an answer", lost[:_EXTREMES]),
    ]


def _picture(
    one: Published,
    drawn: dict[int, tuple[Rgb, Rgb]],
    captions: dict[int, str],
    truths: dict[int, GroundTruth],
    agreement: dict[int, float],
) -> Picture:
    rgb, answer = drawn[one.source_stamp_ns]
    truth = truths.get(one.source_stamp_ns)
    caption = captions[one.source_stamp_ns]
    if one.source_stamp_ns in agreement:
        caption += f", mean mask IoU {agreement[one.source_stamp_ns]:.2f}"
    views = {"result": jpeg(shrink(answer, _PICTURE_WIDTH))}
    if truth is not None:
        views["ground truth"] = jpeg(shrink(draw_truth(rgb, truth), _PICTURE_WIDTH))
    return Picture(caption, views)


def _played_frames(
    source: FrameSource, result: LiveResult
) -> Iterator[tuple[Published, SourceFrame]]:
    """The images that were played, each once, with what became of them."""
    played: dict[int, Published] = {one.index: one for one in result.published}
    for frame in islice(source.frames(), max(played) + 1):
        if frame.index in played:
            yield played[frame.index], frame


def _truths(source: FrameSource, stamps_ns: Iterable[int]) -> dict[int, GroundTruth]:
    missing = set(stamps_ns)
    found: dict[int, GroundTruth] = {}
    for frame, truth in source.labelled_frames(Notes()):
        if truth is not None and frame.stamp_ns in missing:
            found[frame.stamp_ns] = truth
            missing.discard(frame.stamp_ns)
        if not missing:
            break
    return found


def _words(result: LiveResult, one: Published, answer: Perception | None) -> str:
    latency_ms = result.latency_ms(one)
    if answer is None:
        return f"image {one.index}: no output"
    vehicles = len(answer.scores)
    plural = "" if vehicles == 1 else "s"
    return f"image {one.index}: {vehicles} vehicle{plural}, {latency_ms:.1f} ms end to end"

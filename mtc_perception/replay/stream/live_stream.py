"""A stream replayed live: the same records as in lock-step, of what the real node answered."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtc_perception.core.bundle import Bundle
from mtc_perception.core.images import SourceImage
from mtc_perception.core.input_size import InputSize
from mtc_perception.core.perception import Perception
from mtc_perception.core.timing import percentiles
from mtc_perception.replay.live.live_run import CAMERA, LiveResult, Phase, node_files, run_live
from mtc_perception.replay.live.player import Published
from mtc_perception.replay.live.reel import LiveConfig
from mtc_perception.replay.recordings.recording import (
    BrokenPixels,
    EncodedPixels,
    FrameSource,
    LabelledFrame,
    Notes,
    SourceFrame,
    Transport,
)
from mtc_perception.replay.records.record import Status
from mtc_perception.replay.stream.lockstep import ReplayedImage
from mtc_perception.replay.stream.task import StreamTask
from mtc_perception.runtime.perceiver import Perceiver
from mtc_perception.util.errors import ImageError
from mtc_perception.util.progress import Count

# Playing that is further behind than this share of a period is not the rate that was asked for.
_LATE_PERIODS = 0.5
SHARED_MEMORY = Path("/dev/shm")  # where Fast DDS has its segments
NEEDED_MIB = 100
"""Of shared memory, for the node, its player, its recorder and what drives it: 20 MiB each."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What is known of a live run besides its images."""

    engine: dict[str, str]
    """name, precision, device and why, as the node says."""
    figures: dict[str, Any]
    """Content of `StreamResult.live`."""


def replay_live(
    task: StreamTask,
    source: FrameSource,
    frames: Iterable[LabelledFrame],
    bundle: Bundle,
    reference: Perceiver | None,
    folder: Path,
    notes: Notes,
    add: Callable[[ReplayedImage], None],
    count: Count,
) -> LiveRun:
    """Play `source` to the node, then `add` every image of `frames` with what came of it.

    `frames` are the images of `source` in the same order. `folder` gets the node's log. Half of an
    image's work is to play it, the other half to judge it. Raises UserError, and `NodeFailure`
    where the node fails.
    """
    options = task.options
    config = LiveConfig(task.recording, options, options.transport or _transport(source))
    expected = source.info.frames_within(options.seconds)

    def played(phase: Phase, done: float, total: float | None) -> None:
        if phase == "play" and total:
            count(int(expected * done / total) // 2, expected)

    note_little_memory(notes)
    with node_files(folder) as scratch:
        result = run_live(config, source.info, scratch, played)
        _note_trouble(result, notes)
        for number, seen in enumerate(seen_live(frames, result, bundle, reference), start=1):
            add(seen)
            count((max(expected, number) + number) // 2, max(expected, number))
        result.answers.close()
    status = result.engine
    engine = {
        "name": status["engine"],
        **{name: status[name] for name in ("precision", "device", "why")},
    }
    return LiveRun(engine, _figures(result))


def note_little_memory(notes: Notes) -> None:
    """Note where there is too little shared memory: then images are sent in parts that get lost."""
    with suppress(OSError):
        free_mib = shutil.disk_usage(SHARED_MEMORY).free >> 20
        if free_mib < NEEDED_MIB:
            notes.add(
                "little shared memory",
                f"{SHARED_MEMORY} has {free_mib} MiB, {NEEDED_MIB} MiB are needed, else images go "
                "by UDP and may be lost (docker: --shm-size=256m)",
            )


def seen_live(
    frames: Iterable[LabelledFrame], result: LiveResult, bundle: Bundle, reference: Perceiver | None
) -> Iterator[ReplayedImage]:
    """What became of each of `frames`, the images of the recording that was played."""
    published = {one.index: one for one in result.published}
    for labelled in frames:
        one = published.get(labelled.frame.index)
        yield _seen(labelled, one, result, bundle, reference)


def _transport(source: FrameSource) -> Transport:
    """That of the first image that can be sent at all."""
    for frame in source.frames():
        if not isinstance(frame.pixels, BrokenPixels):
            return "compressed" if isinstance(frame.pixels, EncodedPixels) else "raw"
    return "raw"


def _seen(
    labelled: LabelledFrame,
    one: Published | None,
    result: LiveResult,
    bundle: Bundle,
    reference: Perceiver | None,
) -> ReplayedImage:
    fit = bundle.manifest.input.size if reference is None else reference.input_size
    image, problem = _decoded(labelled.frame, fit)
    other = None if reference is None or image is None else _seen_by(reference, image)
    answer = None
    if one is not None and image is not None:
        answer = result.perception(one, bundle.manifest, (image.height, image.width))
    if one is None or answer is None:
        status, reason = _ending(labelled.frame, one, result, problem)
        return ReplayedImage(labelled, image, None, other, status, reason, {})
    return ReplayedImage(labelled, image, answer, other, "processed", "", result.stages_ms(one))


def _seen_by(reference: Perceiver, image: SourceImage) -> Perception | None:
    try:
        return reference.perceive(image)
    except ImageError:
        return None


def _decoded(frame: SourceFrame, fit: InputSize) -> tuple[SourceImage | None, str]:
    try:
        return frame.pixels.decode(fit), ""
    except ImageError as error:
        return None, str(error)


def _ending(
    frame: SourceFrame, one: Published | None, result: LiveResult, problem: str
) -> tuple[Status, str]:
    """How an image without an answer ended; `problem` is why it cannot be decoded, if so."""
    if isinstance(frame.pixels, BrokenPixels) or (problem and one is None):
        return "unreadable", problem
    if problem:
        return "malformed", problem
    if one is None:
        return "dropped", "never played: it is of another kind than the first image"
    return result.outcome(one)


def _note_trouble(result: LiveResult, notes: Notes) -> None:
    period_ms = 1e3 / result.source.rate_hz / result.config.options.rate
    late = [one for one in result.published if one.late_ms > _LATE_PERIODS * period_ms]
    if late:
        first = late[0]
        notes.add(
            "played late",
            f"image {first.index}: {first.late_ms:.0f} ms behind the recording: this machine is too"
            " busy for the rate",
            len(late),
        )
    if (degraded := result.engine["degraded"]) != "no":
        notes.add("engine degraded", degraded)


def _figures(result: LiveResult) -> dict[str, Any]:
    published, usage = result.published, result.usage
    frames = [frame for one in published if (frame := result.frame(one)) is not None]
    first_output_ns = min((frame.last_arrival_ns for frame in frames), default=None)
    return {
        "rate": result.config.options.rate,
        "transport": result.config.transport,
        "degraded": result.engine["degraded"],
        "frames_published": len(published),
        "frames_received_by_node": int(result.recorded.status[CAMERA]["frames_in"]),
        "ready_s": round(result.ready_s, 3),
        "time_to_first_output_ms": None
        if first_output_ns is None
        else round((first_output_ns - published[0].published_ns) / 1e6, 3),
        "played_late_ms": percentiles(one.late_ms for one in published),
        "node": {
            "resident_mib_first": round(usage[0].resident_mib, 1),
            "resident_mib_last": round(usage[-1].resident_mib, 1),
            "cpu_ms_per_frame": round((usage[-1].cpu_s - usage[0].cpu_s) / len(published) * 1e3, 2),
        },
    }

"""Runs one stream into its folder, which appears when everything in it is complete."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from typing_extensions import Self

from mtc_perception.core.bundle import Bundle, Limits, read_bundle
from mtc_perception.core.class_map import ClassMap
from mtc_perception.core.perception import SCORE_FLOOR
from mtc_perception.core.tasks import TASKS
from mtc_perception.replay.recordings.labels import labelled_frames
from mtc_perception.replay.recordings.recording import FrameSource, Notes
from mtc_perception.replay.records.judge import FrameJudge
from mtc_perception.replay.records.record import FrameRecord, RecordWriter, records_sha256
from mtc_perception.replay.stream.annotated import ANNOTATED, AnnotatedBag, AnnotatedVideo
from mtc_perception.replay.stream.gallery import PICTURES, Gallery
from mtc_perception.replay.stream.lockstep import ReplayedImage, replay_frames
from mtc_perception.replay.stream.task import STREAM_FILE, StreamResult, StreamTask
from mtc_perception.runtime.perceiver import Perceiver, Selection
from mtc_perception.runtime.perceiver_pool import PerceiverPool
from mtc_perception.util.errors import ReplayError, UserError
from mtc_perception.util.files import replacing_folder, write_text_atomic
from mtc_perception.util.progress import Count

if TYPE_CHECKING:
    from mtc_perception.replay.stream.live_stream import LiveRun

NODE_LOG = "node.log"
"""Of a live run, in the stream's folder."""


def run_stream(task: StreamTask, perceivers: PerceiverPool, count: Count) -> StreamResult:
    """Replay `task` and return its result, which `task.out` holds afterwards.

    An older result there is replaced when the new one is complete; what a killed run has left is
    removed. Raises UserError; then, and with every other exception, nothing is left of it but the
    log of a node that failed, as `<task.out>.node.log`.
    """
    log = task.out.with_name(f"{task.out.name}.{NODE_LOG}")
    with replacing_folder(task.out) as work:
        log.unlink(missing_ok=True)
        work.mkdir()
        try:
            result = _replay(task, perceivers, work, count)
        except ReplayError:
            with suppress(FileNotFoundError):
                os.replace(work / NODE_LOG, log)
            raise
        write_text_atomic(work / STREAM_FILE, result.to_json())
    return result


def finished(task: StreamTask) -> StreamResult | None:
    """The result in the task's folder, if it is that of the very same task and undamaged."""
    try:
        result = StreamResult.read(task.out)
        intact = result.frames_sha256 == records_sha256(task.out)
    except (UserError, OSError):
        return None
    return result if intact and result.key == task.key else None


def describe(bundle: Bundle) -> dict[str, Any]:
    """The part of a result that says which bundle."""
    manifest = bundle.manifest
    return {
        "name": bundle.path.name,
        "path": str(bundle.path.absolute()),
        "network": manifest.name,
        "version": manifest.version,
        "sha256": {key: variant.sha256 for key, variant in manifest.variants.items()},
        "tasks": list(manifest.tasks),
        "classes": manifest.class_map.model_dump(mode="json"),
        "params": manifest.params,
        "gmacs": manifest.gmacs,
    }


class Sink(Protocol):
    """Sees the images of one stream in recorded order, besides their being recorded."""

    def add(self, record: FrameRecord, replayed: ReplayedImage) -> None:
        """One image, and the record made of it."""

    def close(self, complete: bool) -> None:
        """After the last image, or (not `complete`) after one that failed."""


class _Books:
    """Judges what was replayed, writes it down and shows it to the sinks."""

    def __init__(self, judge: FrameJudge, folder: Path, sinks: Sequence[Sink], notes: Notes):
        self._judge = judge
        self._writer = RecordWriter(folder)
        self._sinks = sinks
        self._notes = notes
        self.images = 0
        self.sha256 = ""
        """Of the records, once they are complete."""

    def add(self, seen: ReplayedImage) -> None:
        frame, truth = seen.labelled
        if seen.perception is None:
            record = self._judge.unanswered(frame, seen.status, seen.reason, truth, seen.reference)
            if seen.image is None:
                self._notes.add(f"{seen.status} image", f"image {frame.index}: {seen.reason}")
        else:
            record = self._judge.answered(frame, seen.perception, truth, seen.reference)
        self._writer.add(record, seen.latency_ms)
        for sink in self._sinks:
            sink.add(record, seen)
        self.images += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for sink in self._sinks:
            sink.close(error is None)
        self.sha256 = self._writer.close()


def _replay(
    task: StreamTask, perceivers: PerceiverPool, folder: Path, count: Count
) -> StreamResult:
    recording, options = task.recording, task.options
    source = recording.open()
    expected = source.info.frames_within(options.seconds)
    count(0, expected)  # engines take their time to load
    notes = Notes()
    with ExitStack() as stack:
        perceiver = reference = None
        if options.mode == "lockstep":  # live, the node has the engine
            perceiver = stack.enter_context(perceivers.lend(options.selection))
        if options.reference is not None:
            # What a reference says is the network's own: not what rounding makes of it.
            other = Selection(options.reference, options.engine, "fp32", options.threads)
            reference = stack.enter_context(perceivers.lend(other))
        bundle = read_bundle(options.bundle) if perceiver is None else perceiver.bundle
        manifest = bundle.manifest
        begin_s = monotonic()  # engines that load or are built are no property of the recording
        classes = manifest.class_map
        judge = FrameJudge(
            manifest.thresholds,
            classes,
            manifest.max_detections,
            notes,
            manifest.tasks,
            () if reference is None else reference.bundle.manifest.classes,
        )
        if lacking := [task for task in TASKS if task not in manifest.tasks]:
            notes.add("lacking task", f"the network has no {', no '.join(lacking)}")
        sinks = _sinks(task, source, folder, classes)
        books = stack.enter_context(_Books(judge, folder, sinks, notes))
        frames = labelled_frames(source, recording.labels, options.seconds, notes)
        if perceiver is None:
            replay_live = import_live()
            run = replay_live(
                task, source, frames, bundle, reference, folder, notes, books.add, count
            )
            engine, live, score_floor = run.engine, run.figures, manifest.thresholds.score
        else:
            every = manifest.thresholds.model_copy(update={"score": SCORE_FLOOR})
            limits = Limits(every, manifest.max_detections)
            images = stack.enter_context(
                closing(replay_frames(frames, perceiver, limits, reference))
            )
            for number, image in enumerate(images, start=1):
                books.add(image)
                count(number, max(number, expected))
            engine, live, score_floor = _engine(perceiver), None, SCORE_FLOOR
    try:
        classes.require(judge.categories, task.name)
    except UserError as error:
        notes.add("label of no class", str(error))
    if books.images == 0:
        raise UserError(f"{task.name} holds no image")
    return StreamResult(
        number=task.number,
        name=task.name,
        path=str(recording.path),
        topic=source.info.topic,
        kind=source.info.kind,
        mode=options.mode,
        key=task.key,
        labels=None if recording.labels is None else str(recording.labels),
        truth=None if recording.truth is None else asdict(recording.truth),
        rate_hz=source.info.rate_hz,
        frames_expected=expected,
        engine=engine,
        bundle=describe(bundle),
        reference=None if reference is None else describe(reference.bundle),
        thresholds=manifest.thresholds.model_dump(),
        max_detections=manifest.max_detections,
        score_floor=score_floor,
        # Threads that run side by side met them: their order is no property of the recording.
        notes=tuple(sorted(notes.all(), key=lambda note: note.kind)),
        frames_sha256=books.sha256,
        wall_s=monotonic() - begin_s,
        live=live,
    )


def import_live() -> Callable[..., "LiveRun"]:
    """`replay_live`, which needs ROS. Raises UserError where there is none."""
    try:
        from mtc_perception.replay.stream.live_stream import replay_live
    except ImportError as missing:
        if not (missing.name or "").startswith(("rclpy", "ament_index", "rcl_", "vision_msgs")):
            raise
        raise UserError(
            f"a live run needs ROS 2, which is not on the path ({missing}): source "
            "tools/ros_env.sh or your ROS 2 and workspace first"
        ) from None
    return replay_live


def _sinks(task: StreamTask, source: FrameSource, folder: Path, classes: ClassMap) -> list[Sink]:
    """The sinks that `task` wants; they write to `folder`, which exists."""
    sinks: list[Sink] = [Gallery(folder / PICTURES, classes)]
    if task.options.annotate:
        sinks.append(AnnotatedBag(folder / ANNOTATED, task.name))
    if task.options.video:
        sinks.append(AnnotatedVideo(folder, source.info.rate_hz))
    return sinks


def _engine(perceiver: Perceiver) -> dict[str, Any]:
    engine = perceiver.engine
    return {
        "name": engine.name,
        "precision": engine.precision,
        "device": engine.device,
        "why": perceiver.why,
    }

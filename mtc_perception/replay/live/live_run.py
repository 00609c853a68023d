"""A live run: the real node under real DDS, fed at the real rate, watched from outside."""

import contextlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mtc_perception.core.bundle import Manifest, read_bundle
from mtc_perception.core.perception import Perception, StageTimes
from mtc_perception.core.timing import percentiles
from mtc_perception.replay.live.node_process import NodeProcess, private_ros_domain
from mtc_perception.replay.live.player import Matched, Played, Published, run_player
from mtc_perception.replay.live.recorder import (
    AnswerReader,
    Ended,
    Finish,
    Listening,
    Recorded,
    RecordedFrame,
    run_recorder,
)
from mtc_perception.replay.live.reel import LiveConfig, Prepared
from mtc_perception.replay.recordings.recording import SourceInfo
from mtc_perception.runtime.frames import STAGES
from mtc_perception.util.errors import ReplayError
from mtc_perception.util.worker_process import WorkerProcess

NAMESPACE = "/replay"
IMAGE_TOPIC = f"{NAMESPACE}/image_raw"
_SETTLE_S = 0.5
_LAST_ANSWER_S = 3.0
_WORKER_TIMEOUT_S = 60.0
_SAMPLE_S = 1.0

Phase = Literal["load", "configure", "play"]
PhaseCount = Callable[[Phase, float, float | None], None]
"""Told how much of a phase is done, in images or seconds, of how much; None where not known."""

CAMERA = "front"
"""Name that the node knows its one camera by."""

# On the node's ROS clock: with /clock this is the recording's time, and known to 10 ms only.
_ROS_STAGES = ("receive", "end_to_end")

Outcome = Literal["processed", "dropped", "stale", "malformed"]


@dataclass(frozen=True, slots=True)
class Usage:
    """The node's process at one moment of playing."""

    since_start_s: float
    resident_mib: float
    cpu_s: float


@dataclass(frozen=True, slots=True, eq=False)
class LiveResult:
    """What went in, what came out, and what the node says of itself."""

    config: LiveConfig
    source: SourceInfo
    published: list[Published]
    recorded: Recorded
    answers: AnswerReader
    """To be read while the folder of the run is there, and to be closed."""
    usage: list[Usage]
    ready_s: float
    """From the start of the node's process until it was active and found."""

    @property
    def engine(self) -> dict[str, str]:
        """The node's engine status: engine, device, precision, why, degraded, ..."""
        return self.recorded.status["engine"]

    def frame(self, published: Published) -> RecordedFrame | None:
        """The times of an image whose every output arrived; None for all others."""
        frame = self.recorded.frames.get(published.stamp_ns)
        return frame if frame is not None and frame.complete else None

    def perception(
        self, published: Published, manifest: Manifest, size: tuple[int, int]
    ) -> Perception | None:
        """The results of an image of height and width `size`; None without, or if they were not
        kept. `manifest` is that of the bundle."""
        frame = self.frame(published)
        if frame is None or frame.offset is None or frame.times is None:
            return None
        times = frame.times
        return self.answers.read(frame.offset).perception(
            manifest, size, StageTimes(times.preprocess, times.inference, times.decode)
        )

    def outcome(self, published: Published) -> tuple[Outcome, str]:
        """How an image ended, and why.

        Processed are those whose every output arrived here; stale and malformed those that the node
        refused; dropped are the others, wherever they were lost: in the node's slot or on the way
        to or from it.
        """
        frame = self.recorded.frames.get(published.stamp_ns)
        if frame is not None and frame.complete:
            return "processed", ""
        if frame is not None and frame.rejected:
            kind, _, reason = frame.rejected.partition(": ")
            return ("stale" if kind == "stale" else "malformed"), reason
        return "dropped", "the node never answered"

    def counts(self) -> dict[str, int]:
        """`frames_in` and how they ended."""
        ended = Counter(self.outcome(one)[0] for one in self.published)
        return {
            "frames_in": len(self.published),
            "frames_processed": ended["processed"],
            "frames_dropped": ended["dropped"],
            "frames_stale": ended["stale"],
            "frames_malformed": ended["malformed"],
            "frames_received_by_node": int(self.recorded.status[CAMERA]["frames_in"]),
        }

    def latency_ms(self, published: Published) -> float:
        """From publishing the image to the last output's arrival; NaN without an answer."""
        frame = self.frame(published)
        return np.nan if frame is None else (frame.last_arrival_ns - published.published_ns) / 1e6

    def stages_ms(self, published: Published) -> dict[str, float]:
        """Where the time of an answered image went; empty for all others.

        The node's own stages, and `end_to_end` as seen from here. `published` is the node's own end
        to end: image stamp to its last publish call.
        """
        frame = self.frame(published)
        if frame is None or frame.times is None:
            return {}
        own = {
            "published" if stage == "end_to_end" else stage: getattr(frame.times, stage)
            for stage in STAGES
            if not (self.config.faithful and stage in _ROS_STAGES)
        }
        return own | {"end_to_end": self.latency_ms(published)}

    def latencies_ms(self) -> dict[str, dict[str, float]]:
        """Percentiles of `stages_ms`."""
        rows = [row for one in self.published if (row := self.stages_ms(one))]
        names = rows[0] if rows else {"end_to_end": 0.0}
        return {stage: percentiles(row[stage] for row in rows) for stage in names}


@contextlib.contextmanager
def node_files(out: Path) -> Iterator[Path]:
    """A folder for the files of a run while it lasts; the node's log stays as `out`/node.log."""
    folder = Path(tempfile.mkdtemp(prefix=".node.", dir=out))
    try:
        yield folder
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / "node.log", out / "node.log")
        shutil.rmtree(folder, ignore_errors=True)


def run_live(config: LiveConfig, source: SourceInfo, folder: Path, count: PhaseCount) -> LiveResult:
    """Start the node, play, record, stop everything; `folder` gets the node's log and the answers.

    `source` tells of the recording. Playing starts when the node is active and its subscription
    and publishers are found, so whatever is lost after that is lost for real. Raises UserError for
    what the user gave, and `NodeFailure` where the node fails. Leaves no process behind, also on
    KeyboardInterrupt.
    """
    options = config.options
    parameters = {
        "bundle": str(options.bundle),
        "engine": options.engine,
        "precision": options.precision or "auto",
        "threads": options.threads or 0,
        "max_frame_age_ms": options.max_frame_age_ms,
        "cameras": [CAMERA],
        f"{CAMERA}.image_topic": IMAGE_TOPIC,
        f"{CAMERA}.transport": config.transport,
        "use_sim_time": config.faithful,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(private_ros_domain())
        player = stack.enter_context(WorkerProcess("player", run_player, config, IMAGE_TOPIC))
        expected = source.frames_within(options.seconds)
        while not (prepared := _take(player, Prepared)).done:
            count("load", prepared.frames, expected)
        count("load", prepared.frames, prepared.frames)
        # Started only now, so that decoding the input does not slow the engine's start.
        node = stack.enter_context(NodeProcess(parameters, NAMESPACE, folder))
        began = time.monotonic()
        answers = folder / "answers.bin"
        recorder = stack.enter_context(
            WorkerProcess(
                "recorder",
                run_recorder,
                node.full_name,
                answers if config.keep_results else None,
                read_bundle(options.bundle).manifest.tasks,
            )
        )

        def tick() -> None:
            count("configure", time.monotonic() - began, None)

        node.configure(tick)
        _take(recorder, Listening)
        node.activate(tick)
        player.send("find the subscription")
        _take(player, Matched)
        took_s = time.monotonic() - began
        time.sleep(_SETTLE_S)  # the other ends of these matches need a moment as well
        count("configure", took_s, took_s)

        player.send("play")
        duration_s = config.repeat_s or expected / source.rate_hz / options.rate
        played, usage = _watch(player, node, duration_s, count)
        _wait_for_answers(recorder, len(played.frames))
        player.send("end")
        node.deactivate(lambda: None)
        recorder.send(Finish())
        recorded = _take(recorder, Recorded)
        if not {"engine", CAMERA} <= recorded.status.keys():
            raise ReplayError("the node's diagnostics never arrived")
        return LiveResult(
            config=config,
            source=source,
            published=played.frames,
            recorded=recorded,
            answers=AnswerReader(answers),
            usage=usage,
            ready_s=took_s,
        )


def _take(worker: WorkerProcess, kind: type[Any]) -> Any:
    message = worker.receive(kind, _WORKER_TIMEOUT_S)
    if message is None:
        raise ReplayError(f"the {worker.name} was silent for {_WORKER_TIMEOUT_S:g} s")
    return message


def _watch(
    player: WorkerProcess, node: NodeProcess, duration_s: float, count: PhaseCount
) -> tuple[Played, list[Usage]]:
    began = time.monotonic()
    usage: list[Usage] = []
    while True:
        since_s = time.monotonic() - began
        usage.append(Usage(since_s, *node.usage()))
        count("play", min(since_s, duration_s), duration_s)
        played = player.receive(Played, _SAMPLE_S)
        if played is not None:
            count("play", duration_s, duration_s)
            return played, usage


def _wait_for_answers(recorder: WorkerProcess, frames: int) -> None:
    """Until every image is answered, or no more answers come."""
    end = time.monotonic() + _LAST_ANSWER_S
    ended = -1
    while time.monotonic() < end and ended < frames:
        recorder.send("how many?")
        count = _take(recorder, Ended).images
        if count > ended:
            ended, end = count, time.monotonic() + _LAST_ANSWER_S
        time.sleep(0.1)

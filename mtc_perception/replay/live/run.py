"""A live run: the real node under real DDS, fed at the real rate, observed from outside."""

import contextlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mtc_perception.perception import Perception, StageTimes
from mtc_perception.replay.frames import SourceInfo
from mtc_perception.replay.live.answers import AnswerReader, RecordedFrame
from mtc_perception.replay.live.node_process import NodeProcess, private_ros_domain
from mtc_perception.replay.live.player import (
    Loaded,
    Matched,
    Played,
    PlayerConfig,
    Published,
    Transport,
    run_player,
)
from mtc_perception.replay.live.recorder import Finish, Listening, Recording, Seen, run_recorder
from mtc_perception.replay.sources.open import open_source
from mtc_perception.replay.worker import ReplayError, WorkerProcess
from mtc_perception.timing import STAGES, percentiles

NAMESPACE = "/replay"
CAMERA = "front"
IMAGE_TOPIC = f"{NAMESPACE}/image_raw"
_SETTLE_S = 0.5
_LAST_ANSWER_S = 3.0
_WORKER_TIMEOUT_S = 60.0
_SAMPLE_S = 1.0

# On the node's ROS clock: with /clock this is the recording's time, and known to 10 ms only.
_ROS_STAGES = ("receive", "end_to_end")

Phase = Literal["load", "configure", "play"]
Outcome = Literal["processed", "dropped", "stale", "malformed"]


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """One live run; the fields that `PlayerConfig` has too mean the same."""

    input: Path
    bundle: Path
    topic: str | None = None
    fps: float | None = None
    seconds: float | None = None
    repeat_s: float | None = None
    """Play in a circle for so long."""
    transport: Transport = "raw"
    parameters: dict[str, Any] = field(default_factory=dict)
    """Further parameters of the node, such as `engine`."""
    keep_results: bool = True
    """Keep boxes and masks, not only times."""
    faithful: bool = False
    speed: float = 1.0


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
    recording: Recording
    answers: AnswerReader
    """To be read while the folder of the run is there, and to be closed."""
    usage: list[Usage]
    unreadable: int
    """Images of the recording that could not be decoded, and so were not played."""
    unreadable_reason: str
    ready_s: float
    """From the start of the node's process until it was active and found."""

    @property
    def engine(self) -> dict[str, str]:
        """The node's engine status: engine, device, precision, why, degraded, ..."""
        return self.recording.status["engine"]

    def frame(self, published: Published) -> RecordedFrame | None:
        """The times of an image whose every output arrived; None for all others."""
        frame = self.recording.frames.get(published.stamp_ns)
        return frame if frame is not None and frame.complete else None

    def perception(self, published: Published, classes: Sequence[str]) -> Perception | None:
        """The results of an image; None without, or if they were not kept.

        `classes` are the bundle's.
        """
        frame = self.frame(published)
        if frame is None or frame.offset is None or frame.times is None:
            return None
        times = frame.times
        return self.answers.read(frame.offset).perception(
            classes, StageTimes(times.preprocess, times.inference, times.decode)
        )

    def outcome(self, published: Published) -> tuple[Outcome, str]:
        """How an image ended, and why.

        Processed are those whose every output arrived here; stale and malformed those that the node
        refused; dropped are the others, wherever they were lost: in the node's slot or on the way
        to or from it.
        """
        frame = self.recording.frames.get(published.stamp_ns)
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
            "frames_received_by_node": int(self.recording.status[CAMERA]["frames_in"]),
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


class Observer(Protocol):
    """Is told how far a run is."""

    def __call__(self, phase: Phase, done: float, total: float | None) -> None:
        """`done` of `total` images or seconds; None where the total is not known."""


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


def run_live(config: LiveConfig, folder: Path, observe: Observer) -> LiveResult:
    """Start the node, play, record, stop everything; `folder` gets the node's log and the answers.

    Playing starts when the node is active and its subscription and publishers are found, so
    whatever is lost after that is lost for real. Raises UserError for what the user gave, and
    `NodeFailure` where the node fails. Leaves no process behind, also on KeyboardInterrupt.
    """
    source = open_source(config.input, config.topic, config.fps).info
    player_config = PlayerConfig(
        path=config.input,
        topic=config.topic,
        fps=config.fps,
        seconds=config.seconds,
        repeat_s=config.repeat_s,
        transport=config.transport,
        publish_topic=IMAGE_TOPIC,
        faithful=config.faithful,
        speed=config.speed,
    )
    parameters = {
        "bundle": str(config.bundle.absolute()),
        "cameras": [CAMERA],
        f"{CAMERA}.image_topic": IMAGE_TOPIC,
        f"{CAMERA}.transport": config.transport,
        "use_sim_time": config.faithful,
        **config.parameters,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(private_ros_domain())
        player = stack.enter_context(WorkerProcess("player", run_player, player_config))
        expected = expected_frames(source, config.seconds)
        while not (loaded := _take(player, Loaded)).done:
            observe("load", loaded.frames, expected)
        observe("load", loaded.frames, loaded.frames)
        # Started only now, so that decoding the input does not slow the engine's start.
        node = stack.enter_context(NodeProcess(parameters, NAMESPACE, folder))
        began = time.monotonic()
        answers = folder / "answers.bin"
        recorder = stack.enter_context(
            WorkerProcess(
                "recorder", run_recorder, node.full_name, answers if config.keep_results else None
            )
        )

        def tick() -> None:
            observe("configure", time.monotonic() - began, None)

        node.configure(tick)
        _take(recorder, Listening)
        node.activate(tick)
        player.send("find the subscription")
        _take(player, Matched)
        took_s = time.monotonic() - began
        time.sleep(_SETTLE_S)  # the other ends of these matches need a moment as well
        observe("configure", took_s, took_s)

        player.send("play")
        duration_s = config.repeat_s or expected / source.rate_hz / config.speed
        played, usage = _watch(player, node, duration_s, observe)
        _wait_for_answers(recorder, len(played.frames))
        player.send("end")
        node.deactivate(lambda: None)
        recorder.send(Finish())
        recording = _take(recorder, Recording)
        if not {"engine", CAMERA} <= recording.status.keys():
            raise ReplayError("the node's diagnostics never arrived")
        return LiveResult(
            config=config,
            source=source,
            published=played.frames,
            recording=recording,
            answers=AnswerReader(answers),
            usage=usage,
            unreadable=played.unreadable,
            unreadable_reason=played.reason,
            ready_s=took_s,
        )


def expected_frames(source: SourceInfo, seconds: float | None) -> int:
    """Images that will be played, as far as the recording tells."""
    return source.frames if seconds is None else min(source.frames, int(seconds * source.rate_hz))


def _take(worker: WorkerProcess, kind: type[Any]) -> Any:
    message = worker.receive(kind, _WORKER_TIMEOUT_S)
    if message is None:
        raise ReplayError(f"the {worker.name} was silent for {_WORKER_TIMEOUT_S:g} s")
    return message


def _watch(
    player: WorkerProcess, node: NodeProcess, duration_s: float, observe: Observer
) -> tuple[Played, list[Usage]]:
    began = time.monotonic()
    usage: list[Usage] = []
    while True:
        since_s = time.monotonic() - began
        usage.append(Usage(since_s, node.resident_mib(), node.cpu_s()))
        observe("play", min(since_s, duration_s), duration_s)
        played = player.receive(Played, _SAMPLE_S)
        if played is not None:
            observe("play", duration_s, duration_s)
            return played, usage


def _wait_for_answers(recorder: WorkerProcess, frames: int) -> None:
    """Until every image is answered, or no more answers come."""
    end = time.monotonic() + _LAST_ANSWER_S
    ended = -1
    while time.monotonic() < end and ended < frames:
        recorder.send("how many?")
        seen = _take(recorder, Seen).ended
        if seen > ended:
            ended, end = seen, time.monotonic() + _LAST_ANSWER_S
        time.sleep(0.1)

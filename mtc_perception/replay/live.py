"""A live run: the real node under real DDS, fed at the real rate, observed from outside."""

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mtc_perception.replay.frames import SourceInfo
from mtc_perception.replay.node_process import NodeProcess, private_ros_domain
from mtc_perception.replay.player import (
    Loaded,
    Matched,
    Played,
    PlayerConfig,
    Published,
    Transport,
    run_player,
)
from mtc_perception.replay.recorder import (
    Finish,
    Listening,
    RecordedFrame,
    Recording,
    Seen,
    run_recorder,
)
from mtc_perception.replay.sources import open_source
from mtc_perception.replay.worker import ReplayError, WorkerProcess
from mtc_perception.timing import STAGES, percentiles

NAMESPACE = "/replay"
CAMERA = "front"
IMAGE_TOPIC = f"{NAMESPACE}/image_raw"
_SETTLE_S = 0.5
_LAST_ANSWER_S = 3.0
_WORKER_TIMEOUT_S = 60.0
_SAMPLE_S = 1.0

Phase = Literal["load", "configure", "play"]


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """One live run."""

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


@dataclass(frozen=True, slots=True)
class Usage:
    """The node's process at one moment of playing."""

    since_start_s: float
    resident_mib: float
    cpu_s: float


@dataclass(frozen=True, slots=True, eq=False)
class LiveResult:
    """What went in, what came out, and what the node says of itself."""

    source: SourceInfo
    published: list[Published]
    recording: Recording
    usage: list[Usage]
    unreadable: int
    """Images of the recording that could not be decoded, and so were not played."""
    unreadable_reason: str

    @property
    def engine(self) -> dict[str, str]:
        """The node's engine status: engine, device, precision, why, degraded, ..."""
        return self.recording.status["engine"]

    def answer(self, published: Published) -> RecordedFrame | None:
        """All outputs of an image, or None if one is missing."""
        frame = self.recording.frames.get(published.stamp_ns)
        return frame if frame is not None and frame.complete else None

    def counts(self) -> dict[str, int]:
        """`frames_in` and how they ended: processed, stale, malformed, and dropped.

        Processed are those whose every output arrived here; dropped is what is left, wherever it
        was lost: in the node's slot or on the way to or from it.
        """
        own = self.recording.status[CAMERA]
        processed = sum(self.answer(one) is not None for one in self.published)
        stale, malformed = int(own["frames_stale"]), int(own["frames_malformed"])
        return {
            "frames_in": len(self.published),
            "frames_processed": processed,
            "frames_dropped": len(self.published) - processed - stale - malformed,
            "frames_stale": stale,
            "frames_malformed": malformed,
            "frames_received_by_node": int(own["frames_in"]),
        }

    def latency_ms(self, published: Published) -> float:
        """Image stamp to the last output's arrival; NaN without an answer."""
        frame = self.answer(published)
        return np.nan if frame is None else (frame.last_arrival_ns - published.stamp_ns) / 1e6

    def latencies_ms(self) -> dict[str, dict[str, float]]:
        """Percentiles: the node's own stages, and `end_to_end` as seen from here.

        `published` is the node's own end to end: image stamp to its last publish call.
        """
        answers = [frame for one in self.published if (frame := self.answer(one)) is not None]
        stages = {
            "published" if stage == "end_to_end" else stage: percentiles(
                getattr(frame.times, stage) for frame in answers if frame.times is not None
            )
            for stage in STAGES
        }
        return stages | {"end_to_end": percentiles(map(self.latency_ms, self.published))}


class Observer(Protocol):
    """Is told how far a run is."""

    def __call__(self, phase: Phase, done: float, total: float | None) -> None:
        """`done` of `total` images or seconds; None where the total is not known."""


def run_live(config: LiveConfig, folder: Path, observe: Observer) -> LiveResult:
    """Start the node, play, record, stop everything; `folder` gets the node's log.

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
    )
    parameters = {
        "bundle": str(config.bundle.absolute()),
        "cameras": [CAMERA],
        f"{CAMERA}.image_topic": IMAGE_TOPIC,
        f"{CAMERA}.transport": config.transport,
        **config.parameters,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(private_ros_domain())
        player = stack.enter_context(WorkerProcess("player", run_player, player_config))
        expected = _expected_frames(source, config.seconds)
        while not (loaded := _take(player, Loaded)).done:
            observe("load", loaded.frames, expected)
        observe("load", loaded.frames, loaded.frames)
        # Started only now, so that decoding the input does not slow the engine's start.
        node = stack.enter_context(NodeProcess(parameters, NAMESPACE, folder))
        recorder = stack.enter_context(
            WorkerProcess("recorder", run_recorder, node.full_name, config.keep_results)
        )
        began = time.monotonic()

        def tick() -> None:
            observe("configure", time.monotonic() - began, None)

        node.configure(tick)
        _take(recorder, Listening)
        node.activate(tick)
        player.send("find the subscription")
        _take(player, Matched)
        time.sleep(_SETTLE_S)  # the other ends of these matches need a moment as well
        took_s = time.monotonic() - began
        observe("configure", took_s, took_s)

        player.send("play")
        duration_s = config.repeat_s or loaded.frames / source.rate_hz
        played, usage = _watch(player, node, duration_s, observe)
        _wait_for_answers(recorder, len(played.frames))
        player.send("end")
        node.deactivate(lambda: None)
        recorder.send(Finish())
        recording = _take(recorder, Recording)
        if not {"engine", CAMERA} <= recording.status.keys():
            raise ReplayError("the node's diagnostics never arrived")
        return LiveResult(source, played.frames, recording, usage, loaded.unreadable, loaded.reason)


def _expected_frames(source: SourceInfo, seconds: float | None) -> int:
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
    complete = -1
    while time.monotonic() < end and complete < frames:
        recorder.send("how many?")
        seen = _take(recorder, Seen).complete
        if seen > complete:
            complete, end = seen, time.monotonic() + _LAST_ANSWER_S
        time.sleep(0.1)

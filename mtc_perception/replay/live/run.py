"""A live run: the real node under real DDS, fed at the real rate, observed from outside."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from mtc_perception.replay.live.answers import AnswerReader
from mtc_perception.replay.live.node_process import NodeProcess, private_ros_domain
from mtc_perception.replay.live.player import run_player
from mtc_perception.replay.live.protocol import (
    Finish,
    Listening,
    Loaded,
    Matched,
    Played,
    PlayerConfig,
    Recording,
    Seen,
)
from mtc_perception.replay.live.recorder import run_recorder
from mtc_perception.replay.live.result import CAMERA, LiveConfig, LiveResult, Usage
from mtc_perception.replay.recordings.recording import SourceInfo
from mtc_perception.replay.recordings.sources import open_source
from mtc_perception.util.worker_process import ReplayError, WorkerProcess

NAMESPACE = "/replay"
IMAGE_TOPIC = f"{NAMESPACE}/image_raw"
_SETTLE_S = 0.5
_LAST_ANSWER_S = 3.0
_WORKER_TIMEOUT_S = 60.0
_SAMPLE_S = 1.0

Phase = Literal["load", "configure", "play"]


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
        usage.append(Usage(since_s, *node.usage()))
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

"""A live run: the real node under real DDS, fed at the real rate, watched from outside."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from mtc_perception.replay.live.live_result import CAMERA, LiveResult, Usage
from mtc_perception.replay.live.node_process import NodeProcess, private_ros_domain
from mtc_perception.replay.live.player import Matched, Played, run_player
from mtc_perception.replay.live.recorder import (
    AnswerReader,
    Ended,
    Finish,
    Listening,
    Recorded,
    run_recorder,
)
from mtc_perception.replay.live.reel import LiveConfig, Prepared
from mtc_perception.replay.recordings.recording import SourceInfo
from mtc_perception.util.worker_process import ReplayError, WorkerProcess

NAMESPACE = "/replay"
IMAGE_TOPIC = f"{NAMESPACE}/image_raw"
_SETTLE_S = 0.5
_LAST_ANSWER_S = 3.0
_WORKER_TIMEOUT_S = 60.0
_SAMPLE_S = 1.0

Phase = Literal["load", "configure", "play"]


PhaseCount = Callable[[Phase, float, float | None], None]
"""Told how much of a phase is done, in images or seconds, of how much; None where not known."""


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


def run_live(config: LiveConfig, folder: Path, count: PhaseCount) -> LiveResult:
    """Start the node, play, record, stop everything; `folder` gets the node's log and the answers.

    Playing starts when the node is active and its subscription and publishers are found, so
    whatever is lost after that is lost for real. Raises UserError for what the user gave, and
    `NodeFailure` where the node fails. Leaves no process behind, also on KeyboardInterrupt.
    """
    options, source = config.options, config.recording.open().info
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
        expected = expected_frames(source, options.seconds)
        while not (prepared := _take(player, Prepared)).done:
            count("load", prepared.frames, expected)
        count("load", prepared.frames, prepared.frames)
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

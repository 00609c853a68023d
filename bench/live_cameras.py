"""The real node with any number of cameras, each played and recorded by processes of its own."""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mtc_perception.core.timing import percentiles
from mtc_perception.replay.live.live_run import Usage
from mtc_perception.replay.live.node_process import NodeProcess, private_ros_domain
from mtc_perception.replay.live.player import Matched, Played, run_player
from mtc_perception.replay.live.recorder import (
    Ended,
    Finish,
    Listening,
    Recorded,
    run_recorder,
)
from mtc_perception.replay.live.reel import LiveConfig, Prepared
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.recordings.recording import Transport
from mtc_perception.runtime.frames import STAGES
from mtc_perception.util.errors import ReplayError
from mtc_perception.util.worker_process import WorkerProcess

NAMESPACE = "/bench"
RECORDED_S = 2.0
"""Enough different images; more would only fill memory."""
SETTLE_S = 0.5
LAST_ANSWER_S = 3.0
TIMEOUT_S = 60.0
SAMPLE_S = 1.0

Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class Case:
    """What is played to the node; all cameras send at the same moments."""

    cameras: tuple[str, ...]
    rate_hz: float
    transport: Transport
    precision: str
    """The node's parameter."""

    @property
    def name(self) -> str:
        count = len(self.cameras)
        cameras = "" if count == 1 else f"{count} cameras, "
        transport = "raw" if self.transport == "raw" else "JPEG"
        return f"{cameras}{transport}, {self.rate_hz:g} Hz, {self.precision}"


@dataclass(slots=True)
class Measured:
    """What came of one case, in as many runs as it has had."""

    images: int = 0
    unanswered: int = 0
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    """Of every answered image: the node's own, and `end_to_end` as another process sees it."""
    usage: list[list[Usage]] = field(default_factory=list)
    """Of every run."""
    cpu_ms: list[float] = field(default_factory=list)
    """Processor time of the node per image, of every run."""
    late_ms: float = 0.0
    """Most that an image was published behind its schedule."""
    engine: dict[str, str] = field(default_factory=dict)
    """The node's status of it, in the last run."""

    def latency_ms(self) -> dict[str, dict[str, float]]:
        return {stage: percentiles(values) for stage, values in self.stages_ms.items()}

    def cpu_ms_per_image(self) -> float:
        return statistics.mean(self.cpu_ms)


def play(bundle: Path, bag: Path, case: Case, seconds: float, measured: Measured) -> None:
    """Run `case` for `seconds` and add what came of it. Raises UserError."""
    alone = len(case.cameras) == 1
    recording = Recording(path=bag)
    recorded_hz = recording.open().info.rate_hz
    speed = case.rate_hz / recorded_hz
    config = LiveConfig(
        recording,
        ReplayOptions(bundle=bundle, seconds=RECORDED_S, transport=case.transport, rate=speed),
        transport=case.transport,
        repeat_s=seconds * speed,
        keep_results=False,
    )
    parameters: dict[str, Any] = {
        "bundle": str(bundle),
        "precision": case.precision,
        "cameras": list(case.cameras),
    }
    for camera in case.cameras:
        parameters[f"{camera}.image_topic"] = f"{NAMESPACE}/{camera}/image_raw"
        parameters[f"{camera}.transport"] = case.transport
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(private_ros_domain())

        def start(name: str, target: Any, *arguments: Any) -> WorkerProcess:
            return stack.enter_context(WorkerProcess(name, target, *arguments))

        players = [
            start("player", run_player, config, f"{NAMESPACE}/{camera}/image_raw")
            for camera in case.cameras
        ]
        for player in players:
            while not _take(player, Prepared).done:
                pass
        node = stack.enter_context(NodeProcess(parameters, NAMESPACE, folder))
        node.configure(lambda: None)
        node.activate(lambda: None)
        for player in players:
            player.send("find the subscription")
        for player in players:
            _take(player, Matched)
        # Only now, so that they do not slow the node's start. A recorder watches the outputs beside
        # the node that it is told of.
        places = [NAMESPACE if alone else f"{NAMESPACE}/{camera}" for camera in case.cameras]
        recorders = [
            start("recorder", run_recorder, f"{place}/perception", None) for place in places
        ]
        for recorder in recorders:
            _take(recorder, Listening)
        time.sleep(SETTLE_S)  # the other ends of these matches need a moment as well
        for player in players:
            player.send("play")
        played, usage = _watch(players, node)
        for recorder, one in zip(recorders, played, strict=True):
            _wait_for_answers(recorder, len(one.frames))
        for player in players:
            player.send("end")
        node.deactivate(lambda: None)
        for recorder in recorders:
            recorder.send(Finish())
        recorded = [_take(recorder, Recorded) for recorder in recorders]
    _add(measured, played, recorded, usage)


def _add(
    measured: Measured, played: list[Played], recorded: list[Recorded], usage: list[Usage]
) -> None:
    images = sum(len(one.frames) for one in played)
    measured.images += images
    measured.usage.append(usage)
    measured.cpu_ms.append((usage[-1].cpu_s - usage[0].cpu_s) / images * 1e3)
    measured.engine = recorded[0].status.get("engine", {})
    for sent, received in zip(played, recorded, strict=True):
        for image in sent.frames:
            measured.late_ms = max(measured.late_ms, image.late_ms)
            frame = received.frames.get(image.stamp_ns)
            if frame is None or not frame.complete or frame.times is None:
                measured.unanswered += 1
                continue
            row = {stage: getattr(frame.times, stage) for stage in STAGES}
            row["published"] = row.pop("end_to_end")
            row["end_to_end"] = (frame.last_arrival_ns - image.published_ns) / 1e6
            for stage, value in row.items():
                measured.stages_ms.setdefault(stage, []).append(value)
    if not measured.stages_ms:
        raise ReplayError("the node answered no image")


def _watch(players: Sequence[WorkerProcess], node: NodeProcess) -> tuple[list[Played], list[Usage]]:
    """Until all have played; the first sample is taken as they begin, the last at their end."""
    began = time.monotonic()
    usage: list[Usage] = []
    played: list[Played] = []
    while True:
        usage.append(Usage(time.monotonic() - began, *node.usage()))
        if len(played) == len(players):
            return played, usage
        one = players[len(played)].receive(Played, SAMPLE_S)
        if one is not None:
            played.append(one)


def _wait_for_answers(recorder: WorkerProcess, images: int) -> None:
    """Until every image is answered, or no more answers come."""
    end = time.monotonic() + LAST_ANSWER_S
    ended = -1
    while time.monotonic() < end and ended < images:
        recorder.send("how many?")
        count = _take(recorder, Ended).images
        if count > ended:
            ended, end = count, time.monotonic() + LAST_ANSWER_S
        time.sleep(0.1)


def _take(worker: WorkerProcess, kind: type[Message]) -> Message:
    message = worker.receive(kind, TIMEOUT_S)
    if message is None:
        raise ReplayError(f"the {worker.name} was silent for {TIMEOUT_S:g} s")
    return message

"""A soak: the real node under real DDS, to which in round after round everything happens."""

import contextlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.soak_camera import CameraProcess
from bench.soak_figures import Account, Moment, combined, counters_from
from bench.soak_observer import Observer, Status
from mtc_perception.replay.live.node_process import NodeFailure, NodeProcess, private_ros_domain
from mtc_perception.replay.live.reel import LiveConfig
from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.recordings.recording import Transport
from mtc_perception.runtime.frames import Counters

NAMESPACE = "/soak"
CAMERAS: dict[str, Transport] = {"front": "raw", "left": "compressed"}
PHASES = (
    "steady",
    "restart",
    "fault",
    "parameters",
    "resolution",
    "malformed",
    "stall",
    "kill",
    "swap",
)
CLIP_S = 1.0
"""Of the recording; the cameras repeat it."""
PATIENCE_S = 60.0
"""Dead publishers, for one, are forgotten by DDS after 20 s."""
SETTLE_S = 0.5
DIAGNOSTICS_S = 0.2
LOOK_S = 0.02
TIGHT_AGE_MS = 0.1
"""No image is younger when its turn comes."""
STABLE_LOOKS = 5

Tick = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is soaked, and how."""

    bundle: Path
    bag: Path
    rate_hz: float
    seed: int
    phase_s: float
    """About how long each thing lasts that has no end of its own."""


@dataclass(slots=True)
class Seen:
    """What a soak leaves."""

    accounts: list[Account] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    """One of every round."""
    problems: list[str] = field(default_factory=list)
    """What should have happened and did not."""
    engine: Status = field(default_factory=dict)
    """The node's status of it."""
    resolution: str = ""
    """Of the images."""


def soak(plan: Plan, rounds: Iterable[Sequence[str]], tick: Tick) -> Seen:
    """Let the phases of every round happen, in an order that is drawn but for the last phase: how
    much memory the allocator holds depends on which engine was opened last.

    `tick` is told the phase several times a second. A node that dies ends it, as a problem of its
    own. Raises UserError.
    """
    seen = Seen()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(private_ros_domain())
        run = _Run(plan, folder, stack, seen, tick)
        try:
            run.begin()
            for number, phases in enumerate(rounds, 1):
                run.round(number, phases)
        except NodeFailure as error:
            seen.problems.append(f"{run.phase}: {error}")
    return seen


class _Run:
    def __init__(
        self, plan: Plan, folder: Path, stack: contextlib.ExitStack, seen: Seen, tick: Tick
    ) -> None:
        self.phase = "start"
        self._plan = plan
        self._seen = seen
        self._tick_phase = tick
        self._draw = random.Random(plan.seed)
        self._began_s = time.monotonic()
        self._counted = dict.fromkeys(CAMERAS, Counters())
        """The node's counters at the last stop."""
        self._compared = dict.fromkeys(CAMERAS, True)
        self._observer = Observer(NAMESPACE, CAMERAS)
        stack.callback(self._observer.close)
        self._cameras = [_camera(plan, name) for name in CAMERAS]
        for camera in self._cameras:
            stack.callback(camera.close)
        parameters: dict[str, Any] = {
            "bundle": str(plan.bundle),
            "cameras": list(CAMERAS),
            # So that no image is lost but by being overtaken.
            "reliability": "reliable",
            "diagnostics_period_s": DIAGNOSTICS_S,
        }
        for name, transport in CAMERAS.items():
            parameters[f"{name}.image_topic"] = _image_topic(name)
            parameters[f"{name}.transport"] = transport
        self._node = stack.enter_context(
            NodeProcess(parameters, NAMESPACE, folder, "bench.soak_node")
        )

    def begin(self) -> None:
        """Until node and cameras have found each other, and one image of each was answered."""
        self._configure_and_activate()
        for camera in self._cameras:
            camera.start()
        for camera in self._cameras:
            self._need(camera.ready, f"{camera.name} finds the node")
        self._sleep(SETTLE_S)
        self._shoot()
        self._expect_each(lambda name: self._value(name, "input") == "ok", "is seen")
        self._stop()
        self._seen.engine = dict(self._observer.statuses["engine"])
        self._seen.resolution = self._value("front", "resolution")

    def round(self, number: int, phases: Sequence[str]) -> None:
        """All phases, each ended by a stop, and the moment after them."""
        *others, last = phases
        for name in (*self._draw.sample(others, len(others)), last):
            self.phase = f"{number} {name}"
            self._shoot()
            getattr(self, f"_{name}")()
            self._stop()
        self.phase = f"{number} end"
        self._expect_each(lambda name: self._value(name, "publishers") == "1", "has one publisher")
        self._seen.moments.append(self._moment())

    # The phases: they begin with both cameras on, and whatever they change they change back.

    def _steady(self) -> None:
        self._sleep_drawn()

    def _swap(self) -> None:
        """To another variant of the network, and back."""
        first = self._value("engine", "precision")
        other = "fp32" if first != "fp32" else "fp16"
        for precision in (other, first):
            self._load_engine(precision)
            self._sleep_drawn()

    def _parameters(self) -> None:
        self._set(score_threshold=self._draw.uniform(0.1, 0.9), max_detections=3)
        self._sleep_drawn()
        before = self._of_each("frames_stale")
        self._set(max_frame_age_ms=TIGHT_AGE_MS)
        self._expect_each(
            lambda name: self._value(name, "frames_stale") != before[name], "has stale images"
        )
        self._sleep_drawn()
        self._set(score_threshold=-1.0, max_detections=0, max_frame_age_ms=0.0)

    def _fault(self) -> None:
        """The engine fails, another one takes over, and the first is loaded again."""
        engine, precision = self._value("engine", "engine"), self._value("engine", "precision")
        self._sleep_drawn()
        os.kill(self._node.pid, signal.SIGUSR1)
        self._expect(lambda: self._value("engine", "engine") != engine, "another engine")
        self._sleep_drawn()
        self._load_engine(precision)
        self._expect(lambda: self._value("engine", "engine") == engine, "the engine again")
        self._expect(lambda: self._value("engine", "degraded") == "no", "an engine not degraded")
        self._sleep_drawn()

    def _restart(self) -> None:
        """Through cleanup, with the cameras going on."""
        self._compared = dict.fromkeys(CAMERAS, False)
        self._sleep_drawn()
        self._node.deactivate(self._tick)
        self._need(lambda: self._value("engine", "state") == "inactive", "the last counters")
        # They begin anew: what this phase has had so far is a debt of the new ones.
        last = {name: counters_from(self._observer.statuses[name]) for name in CAMERAS}
        self._node.cleanup(self._tick)
        self._configure_and_activate()
        self._counted = {name: combined(self._counted[name], last[name], -1) for name in CAMERAS}
        self._sleep_drawn()

    def _stall(self) -> None:
        camera = self._draw.choice(self._cameras)
        self._sleep_drawn()
        camera.rest()
        self._expect(lambda: self._value(camera.name, "input") == "lost", "a camera is lost")
        self._sleep_drawn()
        camera.shoot()
        self._expect(lambda: self._value(camera.name, "input") == "ok", "the camera is back")

    def _kill(self) -> None:
        camera = self._draw.choice(self._cameras)
        self._compared[camera.name] = False
        self._sleep_drawn()
        camera.kill()
        self._expect(lambda: self._value(camera.name, "input") == "lost", "a camera is lost")
        camera.start()
        self._need(camera.ready, f"{camera.name} finds the node")
        self._sleep(SETTLE_S)
        camera.shoot()
        self._expect(lambda: self._value(camera.name, "input") == "ok", "the camera is back")

    def _malformed(self) -> None:
        before = self._of_each("frames_malformed")
        self._shoot(broken=True)
        self._expect_each(
            lambda name: self._value(name, "frames_malformed") != before[name],
            "has malformed images",
        )
        self._sleep_drawn()
        self._shoot()
        self._sleep_drawn()

    def _resolution(self) -> None:
        before = self._of_each("resolution")
        self._sleep_drawn()
        self._shoot(half=True)
        self._expect_each(
            lambda name: self._value(name, "resolution") != before[name], "has another resolution"
        )
        self._sleep_drawn()
        self._shoot()
        self._expect_each(
            lambda name: self._value(name, "resolution") == before[name], "has its resolution again"
        )

    # What they are made of.

    def _configure_and_activate(self) -> None:
        self._node.configure(self._tick)
        self._need(self._observer.outputs_found, "the node's outputs")
        self._sleep(SETTLE_S)  # the other ends of these matches need a moment as well
        self._node.activate(self._tick)

    def _shoot(self, *, half: bool = False, broken: bool = False) -> None:
        for camera in self._cameras:
            camera.shoot(half=half, broken=broken)

    def _load_engine(self, precision: str) -> None:
        answer = self._answer(self._observer.load_engine(precision), "load_engine")
        if not answer.success:
            self._problem(f"load_engine {precision} was refused: {answer.message}")

    def _set(self, **values: Any) -> None:
        answer = self._answer(self._observer.set_parameters(values), "set_parameters").result
        if not answer.successful:
            self._problem(f"{', '.join(values)} refused: {answer.reason}")

    def _stop(self) -> None:
        """Let all images end, and account for them."""
        for camera in self._cameras:
            camera.rest()
        for camera in self._cameras:
            self._need(camera.resting, f"{camera.name} rests")
        ended = {
            camera.name: self._wait_for(partial(self._ended, camera)) for camera in self._cameras
        }
        # What comes after that moment: a message may be on its way that was written before.
        known = self._observer.diagnosed + 2
        self._need(lambda: self._observer.diagnosed >= known, "diagnostics")
        for camera in self._cameras:
            self._account(camera, ended[camera.name])

    def _ended(self, camera: CameraProcess) -> bool:
        """Whether it came out how the last image ended, completely."""
        rejected = self._observer.rejected[camera.name]
        arrived = self._observer.arrived[camera.name].values()
        return camera.last_ns in rejected or all(camera.last_ns in stamps for stamps in arrived)

    def _account(self, camera: CameraProcess, last_ended: bool) -> None:
        name = camera.name
        now = counters_from(self._observer.statuses[name])
        complete = set.intersection(*self._observer.arrived[name].values())
        refused = {
            stamp_ns
            for stamp_ns, reason in self._observer.rejected[name].items()
            if reason.startswith("malformed")
        }
        self._seen.accounts.append(
            Account(
                phase=self.phase,
                camera=name,
                published=camera.sent if self._compared[name] else None,
                counters=combined(now, self._counted[name], -1),
                answered=len(complete),
                answered_broken=len(complete & camera.broken),
                refused_good=len(refused - camera.broken),
                last_ended=last_ended,
            )
        )
        self._counted[name], self._compared[name] = now, True
        camera.forget()
        self._observer.forget(name)

    def _moment(self) -> Moment:
        """When nothing starts or ends any more: engines are tried in the background."""
        before, same = (0, 0), 0
        end_s = time.monotonic() + PATIENCE_S
        while same < STABLE_LOOKS and time.monotonic() < end_s:
            now = self._node.held()
            same, before = same + 1 if now == before else 0, now
            self._sleep(DIAGNOSTICS_S)
        resident_mib, _ = self._node.usage()
        return Moment(time.monotonic() - self._began_s, resident_mib, *before)

    def _value(self, status: str, key: str) -> str:
        """Of the last diagnostics; of no status empty, as before there is one."""
        return self._observer.statuses.get(status, {}).get(key, "")

    def _of_each(self, key: str) -> Status:
        """`_value` by camera."""
        return {name: self._value(name, key) for name in CAMERAS}

    def _answer(self, future: Any, what: str) -> Any:
        self._need(future.done, f"an answer of {what}")
        return future.result()

    def _sleep_drawn(self) -> None:
        self._sleep(self._plan.phase_s * self._draw.uniform(0.5, 1.5))

    def _sleep(self, seconds: float) -> None:
        self._wait_for(lambda: False, seconds)

    def _expect(self, happened: Callable[[], bool], what: str) -> None:
        """What does not happen is a problem of the node's."""
        if not self._wait_for(happened):
            self._problem(f"did not happen within {PATIENCE_S:g} s: {what}")

    def _expect_each(self, happened: Callable[[str], bool], what: str) -> None:
        """The same of every camera, by name."""
        for name in CAMERAS:
            self._expect(partial(happened, name), f"{name} {what}")

    def _need(self, happened: Callable[[], bool], what: str) -> None:
        """Without it there is no going on."""
        if not self._wait_for(happened):
            raise NodeFailure(f"did not happen within {PATIENCE_S:g} s: {what}")

    def _wait_for(self, happened: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
        end_s = time.monotonic() + timeout_s
        while not happened():
            if time.monotonic() > end_s:
                return False
            self._node.check()
            self._tick()
            time.sleep(LOOK_S)
        return True

    def _tick(self) -> None:
        for camera in self._cameras:
            camera.listen()
        self._tick_phase(self.phase)

    def _problem(self, words: str) -> None:
        self._seen.problems.append(f"{self.phase}: {words}")


def _camera(plan: Plan, name: str) -> CameraProcess:
    transport = CAMERAS[name]
    options = ReplayOptions(bundle=plan.bundle, seconds=CLIP_S, transport=transport)
    config = LiveConfig(Recording(path=plan.bag), options, transport=transport)
    return CameraProcess(name, config, _image_topic(name), plan.rate_hz, plan.seed)


def _image_topic(camera: str) -> str:
    return f"{NAMESPACE}/{camera}/image_raw"

"""More images than the engine can answer: every camera gets its turns."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image

from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.engine import Outputs
from mtc_perception.core.images import SourceImage
from mtc_perception.core.perception import Perception
from mtc_perception.runtime.frames import Frame, FrameSlots, FrameTimes, Outcome
from mtc_perception.runtime.host import EngineHost
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from mtc_perception.runtime.worker import InferenceWorker
from support.node_rig import image_message, solid

CAMERAS = ["front", "left", "right", "rear"]
TURNS = 40


class Port:
    """A camera of which, as of all others, images `arrive` while one of it is being answered."""

    def __init__(self, arrive: Any, done: threading.Event) -> None:
        self._arrive, self._done = arrive, done
        self.answered: list[int] = []

    def now_ns(self) -> int:
        return time.time_ns()

    def read(self, frame: Frame) -> SourceImage:
        if not self._done.is_set():
            self._arrive()
        return SourceImage(np.full((96, 160, 3), 128, np.uint8), "rgb")

    def reject(self, frame: Frame, outcome: Outcome, reason: str) -> None:
        raise AssertionError(reason)

    def publish(self, frame: Frame, perception: Perception) -> None:
        self.answered.append(frame.payload)

    def report(
        self, frame: Frame, image: SourceImage, perception: Perception, times: FrameTimes
    ) -> None:
        if len(self.answered) == TURNS:
            self._done.set()


def test_every_camera_has_the_same_number_of_turns_however_many_images_it_sends(
    toy_bundle: Path,
) -> None:
    bursts = [20, 1, 2, 5]
    slots, done = FrameSlots(len(bursts)), threading.Event()
    sent = [0] * len(bursts)

    def arrive() -> None:
        for camera, burst in enumerate(bursts):
            for _ in range(burst):
                sent[camera] += 1
                now_ns = time.time_ns()
                slots.put(Frame(camera, sent[camera], now_ns, now_ns, time.monotonic_ns()))

    selection = Selection(toy_bundle, "openvino", threads=1)
    host = EngineHost(selection, open_perceiver(selection))
    ports = [Port(arrive, done) for _ in bursts]
    slots.open()
    arrive()
    limits = read_bundle(toy_bundle).manifest.limits
    worker = InferenceWorker(slots, host, ports, limits, 0.0, *[pytest.fail] * 3)
    assert done.wait(60)
    worker.stop()
    host.close()
    turns = [len(port.answered) for port in ports]
    assert max(turns) - min(turns) <= 1
    assert min(turns) >= TURNS - 1
    for port, counters, count in zip(ports, slots.counters(), sent, strict=True):
        assert port.answered == sorted(set(port.answered)), "an old image came after a newer one"
        assert counters.received == count
        assert counters.processed == len(port.answered)
        assert counters.dropped == count - counters.processed


class Slow:
    """A real engine that takes its time."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def wait(self) -> Outputs:
        time.sleep(0.1)
        outputs: Outputs = self._engine.wait()
        return outputs


@pytest.mark.dds
def test_a_camera_that_floods_the_node_takes_nothing_from_the_others(start_node: Any) -> None:
    rig = start_node(cameras=CAMERAS)
    rig.run()
    perceiver = rig.configured.host.perceiver
    perceiver.engine = Slow(perceiver.engine)
    answers = {name: rig.collect(Image, f"{name}/lane_mask") for name in CAMERAS}
    publish = {name: rig.camera(f"{name}/image_raw") for name in CAMERAS}
    for name in CAMERAS:  # every output is found by now
        rig.perceive(publish[name], image_message(solid(255, 0, 0), "rgb8", rig), answers[name])
    before = [counters.processed for counters in rig.configured.slots.counters()]
    # 10 images a second can be answered: of the first come 200, of the others 50.
    end = time.monotonic() + 4.0
    round_ = 0
    while time.monotonic() < end:
        for name in CAMERAS if round_ % 4 == 0 else CAMERAS[:1]:
            publish[name](image_message(solid(255, 0, 0), "rgb8", rig))
        round_ += 1
        rig.spin_for(0.005)
    counters = rig.configured.slots.counters()
    turns = [one.processed - count for one, count in zip(counters, before, strict=True)]
    assert min(turns) >= 4
    assert max(turns) - min(turns) <= 2 + 0.1 * max(turns)
    assert counters[0].received > 2 * counters[1].received
    assert counters[0].dropped > counters[1].dropped > 0

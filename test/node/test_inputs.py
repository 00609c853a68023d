import time

import pytest

from mtc_perception.node.camera import RATE_OVER_S, InputMonitor, InputState
from mtc_perception.runtime.frames import Clock, Frame

SECOND = 1_000_000_000


def arrive(monitor: InputMonitor, ago_s: float, stamp_ns: int | None = None) -> Frame:
    now_ns = time.time_ns() - int(ago_s * SECOND)
    frame = Frame(
        camera=0,
        payload=None,
        stamp_ns=now_ns if stamp_ns is None else stamp_ns,
        received_ns=now_ns,
        arrived_ns=time.monotonic_ns() - int(ago_s * SECOND),
    )
    monitor.arrived(frame)
    return frame


def test_waiting_names_the_cause():
    monitor = InputMonitor()
    assert monitor.state("nobody publishes") == (InputState.WAITING, "nobody publishes")
    monitor.qos_problem = "incompatible"
    assert monitor.state("nobody publishes") == (InputState.WAITING, "incompatible")


def test_ok_then_lost():
    monitor = InputMonitor()
    arrive(monitor, ago_s=0.01)
    assert monitor.state("silent") == (InputState.OK, "")
    lost = InputMonitor()
    arrive(lost, ago_s=1.5)
    state, reason = lost.state("nobody publishes")
    assert state is InputState.LOST
    assert "no image for 1." in reason
    assert "nobody publishes" in reason


def test_a_slow_camera_is_not_lost_between_its_images():
    monitor = InputMonitor()
    for ago_s in (4.0, 3.0, 2.0):
        monitor.accepted(arrive(monitor, ago_s), 640, 480)
    assert monitor.state("silent")[0] is InputState.OK


def test_rejected_until_an_image_is_accepted():
    monitor = InputMonitor()
    frame = arrive(monitor, ago_s=0.0)
    monitor.rejected(frame, "malformed: too short")
    assert monitor.state("silent") == (InputState.REJECTED, "malformed: too short")
    monitor.accepted(frame, 640, 480)
    assert monitor.state("silent") == (InputState.OK, "")
    assert monitor.resolution == "640x480"


def test_after_a_silence_the_next_one_is_told_of_as_soon():
    monitor = InputMonitor()
    for ago_s in (100.0, 99.9, 1.5, 1.49, 1.48, 1.47, 1.46, 1.45, 1.44):
        monitor.accepted(arrive(monitor, ago_s), 640, 480)
    assert monitor.state("silent")[0] is InputState.LOST


def test_images_without_an_answer_are_told():
    monitor = InputMonitor()
    answered = arrive(monitor, ago_s=3.0)
    monitor.accepted(answered, 640, 480)
    arrive(monitor, ago_s=2.0)
    # Answers are what counts, not images: that there are new ones makes nothing better.
    for ago_s in (1.0, 0.0):
        arrive(monitor, ago_s)
        assert monitor.state("silent") == (InputState.OK, "")  # answered just now, as it seems
    monitor._answered_ns = answered.arrived_ns, answered.arrived_ns
    state, reason = monitor.state("silent")
    assert state is InputState.UNANSWERED
    assert reason == "images come, no answer for 2.0 s"
    monitor.accepted(arrive(monitor, ago_s=0.0), 640, 480)
    assert monitor.state("silent") == (InputState.OK, "")
    # The first one after a silence has its time, too.
    arrive(monitor, ago_s=0.1)
    assert monitor.state("silent") == (InputState.OK, "")


@pytest.mark.fault(
    area="clock",
    row="a recording loops",
    answer="Every image is answered.",
    diagnostics="stamps_back counts.",
)
def test_stamps_back_and_ahead_are_noticed():
    monitor = InputMonitor()
    now_ns = time.time_ns()
    arrive(monitor, 0.0, now_ns)
    arrive(monitor, 0.0, now_ns - SECOND)
    assert monitor.stamps_back == 1
    assert monitor.clock is Clock.OK
    arrive(monitor, 0.0, now_ns + 60 * SECOND)
    assert monitor.clock is Clock.FUTURE
    assert monitor.offset_ms == pytest.approx(-60_000, abs=1000)
    arrive(monitor, 0.0, 0)
    assert monitor.clock is Clock.UNSET
    assert monitor.stamps_back == 2


def test_rate_is_measured_over_at_least_half_a_second():
    before = time.monotonic()
    monitor = InputMonitor()
    after = time.monotonic()
    for _ in range(6):
        arrive(monitor, 0.0)
    if time.monotonic() - before < RATE_OVER_S:
        assert monitor.rate_hz() == 0.0
    time.sleep(RATE_OVER_S + 0.01)
    shortest_s = time.monotonic() - after
    rate_hz = monitor.rate_hz()
    longest_s = time.monotonic() - before
    assert 6 / longest_s <= rate_hz <= 6 / shortest_s
    again_hz = monitor.rate_hz()
    if time.monotonic() - before - shortest_s < RATE_OVER_S:
        assert again_hz == rate_hz

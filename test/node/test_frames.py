import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc_perception.runtime.frames import (
    STAGES,
    Clock,
    Frame,
    FrameSlots,
    FrameTimes,
    Outcome,
    TimingWindow,
    stale_age_ms,
)
from mtc_perception.util.errors import EngineError

MS = 1_000_000
NOW = 1_700_000_000_000 * MS


def frame(camera: int, number: int = 0) -> Frame:
    return Frame(camera, payload=number, stamp_ns=NOW, received_ns=NOW, arrived_ns=0)


def open_slots(cameras: int) -> FrameSlots:
    slots = FrameSlots(cameras)
    slots.open()
    return slots


def test_takes_the_newest_frame_and_counts_the_others_as_dropped():
    slots = open_slots(1)
    for number in range(5):
        slots.put(frame(0, number))
    taken = slots.take()
    assert taken is not None
    assert taken.payload == 4
    slots.finish(0, Outcome.PROCESSED)
    (counters,) = slots.counters()
    assert (counters.received, counters.dropped, counters.processed) == (5, 4, 1)


def test_serves_cameras_in_turn_however_fast_one_is():
    slots = open_slots(3)
    served = []
    for number in range(30):
        slots.put(frame(0, number))
        if number % 2 == 0:
            slots.put(frame(1, number))
        if number % 5 == 0:
            slots.put(frame(2, number))
        taken = slots.take()
        assert taken is not None
        served.append(taken.camera)
    # Camera 2 never waits longer than one frame of each other camera.
    assert served.count(2) == 6
    assert served.count(1) >= 10


def test_take_blocks_until_a_frame_comes():
    slots = open_slots(1)
    begin = time.monotonic()
    threading.Timer(0.05, slots.put, [frame(0)]).start()
    assert slots.take() is not None
    assert time.monotonic() - begin >= 0.05


def test_close_releases_a_waiting_taker_and_drops_what_waits():
    slots = open_slots(1)
    taken: list[Frame | None] = []
    taker = threading.Thread(target=lambda: taken.append(slots.take()))
    taker.start()
    time.sleep(0.02)
    slots.close()
    taker.join(timeout=2)
    assert taken == [None]
    slots.open()
    slots.put(frame(0))
    slots.close()
    assert slots.counters()[0].dropped == 1


def test_pause_waits_for_the_frame_under_way_and_holds_back_the_next():
    slots = open_slots(1)
    slots.put(frame(0, 1))
    assert slots.take() is not None
    events: list[str] = []

    def finish() -> None:
        events.append("finished")
        slots.finish(0, Outcome.PROCESSED)

    def take() -> None:
        taken = slots.take()
        assert taken is not None
        events.append(f"took {taken.payload}")
        slots.finish(0, Outcome.PROCESSED)

    threading.Timer(0.05, finish).start()
    slots.pause()
    taker = threading.Thread(target=take)
    taker.start()
    slots.put(frame(0, 2))
    time.sleep(0.05)
    slots.put(frame(0, 3))
    events.append("paused")
    slots.resume()
    taker.join(timeout=2)
    assert events == ["finished", "paused", "took 3"]
    (counters,) = slots.counters()
    assert (counters.received, counters.dropped, counters.processed) == (3, 1, 2)


def test_a_pause_gives_up_a_frame_that_never_ends():
    slots = open_slots(1)
    slots.put(frame(0, 1))
    assert slots.take() is not None
    words = r"^the engine did not finish an image in 0\.05 s$"
    with pytest.raises(EngineError, match=words):
        slots.pause(0.05)
    # Nothing is held back afterwards.
    slots.put(frame(0, 2))
    taken = slots.take()
    assert taken is not None
    assert taken.payload == 2


def test_close_releases_a_taker_that_is_held_back():
    slots = open_slots(1)
    slots.put(frame(0))
    slots.pause()
    taker = threading.Thread(target=slots.take)
    taker.start()
    slots.close()
    taker.join(timeout=2)
    assert not taker.is_alive()


def test_closed_slots_drop_and_reopen():
    slots = FrameSlots(1)
    slots.put(frame(0))
    assert slots.counters()[0].dropped == 1
    assert slots.take() is None
    slots.open()
    slots.put(frame(0, 7))
    taken = slots.take()
    assert taken is not None
    assert taken.payload == 7


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 2)),
            st.tuples(st.just("take"), st.sampled_from(Outcome)),
            st.tuples(st.just("close"), st.just(None)),
            st.tuples(st.just("open"), st.just(None)),
        ),
        max_size=60,
    )
)
def test_every_frame_ends_in_exactly_one_counter(steps):
    slots = open_slots(3)
    is_open, waiting = True, set()
    for step, argument in steps:
        if step == "put":
            slots.put(frame(argument))
            if is_open:
                waiting.add(argument)
        elif step == "take" and waiting and is_open:
            taken = slots.take()
            assert taken is not None
            waiting.remove(taken.camera)
            slots.finish(taken.camera, argument)
        elif step == "close":
            slots.close()
            is_open, waiting = False, set()
        elif step == "open":
            slots.open()
            is_open = True
        for camera, counters in enumerate(slots.counters()):
            ended = counters.processed + counters.dropped + counters.stale + counters.malformed
            assert counters.received == ended + (camera in waiting)


def test_no_frame_is_lost_or_doubled_between_threads():
    slots = open_slots(2)
    seen: list[tuple[int, int]] = []

    def consume():
        while (taken := slots.take()) is not None:
            seen.append((taken.camera, taken.payload))
            slots.finish(taken.camera, Outcome.PROCESSED)

    consumer = threading.Thread(target=consume)
    consumer.start()
    producers = [
        threading.Thread(target=lambda c=c: [slots.put(frame(c, n)) for n in range(2000)])
        for c in range(2)
    ]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    slots.close()
    consumer.join(timeout=5)
    assert len(seen) == len(set(seen))
    for camera, counters in enumerate(slots.counters()):
        numbers = [number for c, number in seen if c == camera]
        assert numbers == sorted(numbers)
        assert counters.received == 2000 == counters.processed + counters.dropped
        assert counters.processed == len(numbers)


@pytest.mark.parametrize(
    ("stamp_ns", "now_ns", "clock"),
    [
        (NOW, NOW + 30 * MS, Clock.OK),
        (NOW + 20 * MS, NOW, Clock.OK),
        (NOW + 51 * MS, NOW, Clock.FUTURE),
        (NOW - 9_999 * MS, NOW, Clock.OK),
        (NOW - 10_001 * MS, NOW, Clock.FAR_PAST),
        (0, NOW, Clock.UNSET),
        (NOW, 0, Clock.NO_TIME),
        (0, 0, Clock.NO_TIME),
    ],
)
def test_stamps_are_judged(stamp_ns, now_ns, clock):
    assert Frame(0, None, stamp_ns, now_ns, arrived_ns=0).clock is clock


@pytest.mark.parametrize(
    ("clock", "age_ms", "limit_ms", "stale"),
    [
        (Clock.OK, 99, 100.0, None),
        (Clock.OK, 101, 100.0, 101.0),
        (Clock.OK, 5000, 0.0, None),
        (Clock.FAR_PAST, 20_000, 100.0, None),
        (Clock.FUTURE, 101, 100.0, None),
        (Clock.UNSET, 101, 100.0, None),
        (Clock.NO_TIME, 101, 100.0, None),
    ],
)
def test_only_a_known_age_makes_a_frame_stale(clock, age_ms, limit_ms, stale):
    assert stale_age_ms(clock, NOW - age_ms * MS, NOW, limit_ms) == stale


def test_window_keeps_the_last_frames_only():
    times = FrameTimes(*range(1, 8))
    window = TimingWindow(capacity=3)
    assert window.summary()["end_to_end"] == {"count": 0}
    for value in (100.0, 1.0, 2.0, 3.0):
        window.add(replace(times, end_to_end=value))
    summary = window.summary()
    assert tuple(summary) == STAGES
    assert summary["end_to_end"]["max"] == 3.0
    assert summary["receive"]["p50"] == times.receive

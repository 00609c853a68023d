"""What never ends is given up in time, and what it still returns does not stay."""

import threading
import time

import pytest

from mtc_perception.util.deadline import Deadline, Task


def test_a_result_comes_as_it_is_there() -> None:
    assert Task("task", lambda: 3).result(Deadline(20)) == 3
    with pytest.raises(ZeroDivisionError):
        Task("task", lambda: 1 // 0).result(Deadline(20))


def test_a_call_that_does_not_end_is_given_up_and_its_late_result_discarded() -> None:
    free, late = threading.Event(), threading.Event()
    task = Task("task", lambda: free.wait(60), lambda _: late.set())
    ticks: list[None] = []
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        task.result(Deadline(0.2), lambda: ticks.append(None))
    assert 0.2 <= time.monotonic() - began_s < 5
    assert ticks
    assert not late.is_set()
    free.set()
    assert late.wait(20)


def test_what_ends_by_the_deadline_itself_is_not_given_up() -> None:
    deadline = Deadline(0.1)

    def end_with_it() -> str:
        while deadline.remaining_s():
            time.sleep(0.01)
        return "cleaned up"

    assert Task("task", end_with_it).result(deadline) == "cleaned up"


def test_an_interrupt_cancels_what_it_waits_for() -> None:
    deadline, discarded = Deadline(20), threading.Event()

    def end_with_it() -> None:
        while deadline.remaining_s():
            time.sleep(0.01)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Task("task", end_with_it, lambda _: discarded.set()).result(deadline, interrupt)
    assert discarded.is_set()


def test_a_deadline_is_never_later_than_that_around_it() -> None:
    outer = Deadline(10)
    inner = Deadline(60, within=outer)
    assert 5 < inner.remaining_s() <= 10
    assert 0 < Deadline(1, within=outer).remaining_s() <= 1
    outer.cancel()
    assert inner.remaining_s() == 0

"""A thread stays alive for those who were interrupted as they waited for it."""

import signal
import threading

import pytest

from mtc_perception.util.daemon_thread import DaemonThread
from mtc_perception.util.deadline import Deadline, Task


@pytest.fixture
def interrupted_soon():
    """SIGALRM raises KeyboardInterrupt in 0.1 s, as Ctrl-C would."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_thread_is_alive_from_its_start_to_its_end():
    end = threading.Event()
    thread = DaemonThread("waiting", end.wait)
    assert thread.daemon
    assert not thread.is_alive()
    thread.start()
    thread.join(0.01)
    assert thread.is_alive()
    assert "started" in repr(thread)
    end.set()
    thread.join()
    assert not thread.is_alive()


@pytest.mark.parametrize("timeout_s", [5.0, None])
def test_an_interrupted_wait_does_not_end_the_thread(interrupted_soon, timeout_s):
    end = threading.Event()
    thread = DaemonThread("waiting", end.wait)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        thread.join(timeout_s)
    assert thread.is_alive()
    assert thread in threading.enumerate()
    end.set()
    thread.join()
    assert not thread.is_alive()


def test_a_task_whose_waiting_is_interrupted_still_discards_what_comes_later(interrupted_soon):
    end = threading.Event()
    discarded = []
    task = Task("late", lambda: end.wait() and "late", discarded.append)
    with pytest.raises(KeyboardInterrupt):
        task.result(Deadline(5.0))
    end.set()
    task.wait(5.0)
    assert discarded == ["late"]

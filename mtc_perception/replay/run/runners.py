"""The streams of a run, one after the other here or each in one of several worker processes."""

import contextlib
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from mtc_perception.replay.options import Mode
from mtc_perception.replay.stream.stream import run_stream
from mtc_perception.replay.stream.task import Failure, StreamResult, StreamTask
from mtc_perception.runtime.perceiver_pool import PerceiverPool
from mtc_perception.util.errors import ReplayError, UserError
from mtc_perception.util.memory import keep_memory
from mtc_perception.util.opencv_threads import use_one_opencv_thread
from mtc_perception.util.progress import Count
from mtc_perception.util.worker_process import (
    WorkerProcess,
    stop_if_alone,
    wait_for_any,
)

TRIES = 3
"""How often a stream is begun whose worker is lost."""
_REPORT_S = 0.25
_LISTEN_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the streams of a run ended, each in one of the two."""

    results: list[StreamResult]
    failures: list[Failure]


StreamCount = Callable[[StreamTask, float, float | None], None]
"""Told how many images of a stream are done, of how many the recording claims to have."""
Runner = Callable[[Sequence[StreamTask], StreamCount], Outcomes]


def run_serial(
    tasks: Sequence[StreamTask], count: StreamCount, *, strict: bool = False
) -> Outcomes:
    """Replay every stream here; one that raises UserError is a failure, and the others go on.

    `strict`: it is raised.
    """
    replay = run_stream if strict else try_stream
    with PerceiverPool() as perceivers:
        ended = {task.name: replay(task, perceivers, partial(count, task)) for task in tasks}
    return outcomes(tasks, ended)


def try_stream(task: StreamTask, perceivers: PerceiverPool, count: Count) -> StreamResult | Failure:
    """The result of a stream, or the UserError that stands in its way."""
    try:
        return run_stream(task, perceivers, count)
    except UserError as error:
        return Failure(task.name, str(error))


def choose_runner(mode: Mode, workers: int, ray: str | None) -> Runner:
    """The runner that these options ask for. Raises UserError where they contradict each other."""
    if ray is not None and workers > 1:
        raise UserError("--workers are this machine's, --ray has its own: leave out one of them")
    if mode == "live" and (ray is not None or workers > 1):
        raise UserError("live runs measure time, one at a time: leave out --workers and --ray")
    if ray is not None:
        from mtc_perception.replay.run.ray_runner import run_on_ray

        return partial(run_on_ray, ray)
    return partial(run_workers, workers) if workers > 1 else run_serial


def threads_each(workers: int, ray: str | None) -> int | None:
    """Threads of each engine where nothing else is asked for: they share the processors."""
    if ray is not None:
        return 1
    return None if workers == 1 else max(1, len(os.sched_getaffinity(0)) // workers)


def run_workers(workers: int, tasks: Sequence[StreamTask], count: StreamCount) -> Outcomes:
    """Evaluate every task, `workers` at a time.

    A stream whose worker is lost is begun again by a fresh one, up to `TRIES` times in all. What
    `UserError` a stream meets is its failure. Leaves no process behind, also on KeyboardInterrupt.
    """
    queue = deque(tasks)
    tries: Counter[str] = Counter()
    ended: dict[str, StreamResult | Failure] = {}
    with contextlib.ExitStack() as stack:
        crew = _Crew(stack)
        while queue or crew.busy:
            while queue and len(crew.busy) < workers:
                tries[queue[0].name] += 1
                crew.assign(queue.popleft())
            for worker in wait_for_any(list(crew.busy), _LISTEN_S):
                task = crew.busy[worker]
                try:
                    message: Any = worker.receive(object, 0)
                except ReplayError as lost:
                    crew.dismiss(worker)
                    if tries[task.name] < TRIES:
                        queue.append(task)
                        count(task, 0, None)
                    else:
                        ended[task.name] = Failure(task.name, f"tried {TRIES} times: {lost}")
                    continue
                if isinstance(message, _Counted):
                    count(task, message.done, message.total)
                    continue
                crew.release(worker)
                ended[task.name] = message
    return outcomes(tasks, ended)


def outcomes(tasks: Sequence[StreamTask], ended: Mapping[str, StreamResult | Failure]) -> Outcomes:
    """In the order of the tasks; `ended` has how each of them ended, by its name."""
    everything = [ended[task.name] for task in tasks]
    return Outcomes(
        [one for one in everything if isinstance(one, StreamResult)],
        [one for one in everything if isinstance(one, Failure)],
    )


def evaluate_streams(connection: Connection) -> None:
    """Worker: evaluate the streams that come, until the connection is closed."""
    keep_memory()
    use_one_opencv_thread()

    def tell(done: float, total: float | None) -> None:
        stop_if_alone(connection)
        connection.send(_Counted(done, total))

    with PerceiverPool() as pool:
        while True:
            task: StreamTask = connection.recv()
            connection.send(try_stream(task, pool, now_and_then(tell)))


def now_and_then(tell: Count) -> Count:
    """`tell`, but not more often than anybody wants to know, and at the end."""
    next_s = 0.0

    def count(done: float, total: float | None) -> None:
        nonlocal next_s
        if (now_s := time.monotonic()) >= next_s or done == total:
            next_s = now_s + _REPORT_S
            tell(done, total)

    return count


@dataclass(frozen=True, slots=True)
class _Counted:
    """Sent while a stream is replayed."""

    done: float
    total: float | None


class _Crew:
    """The workers there are; each is busy with one task or waits for the next."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.busy: dict[WorkerProcess, StreamTask] = {}
        self._idle: list[WorkerProcess] = []
        self._stack = stack

    def assign(self, task: StreamTask) -> None:
        """Have a worker evaluate it: a waiting one or a new one."""
        if not self._idle:
            self._idle.append(
                self._stack.enter_context(WorkerProcess("evaluation worker", evaluate_streams))
            )
        worker = self._idle.pop()
        self.busy[worker] = task
        with contextlib.suppress(ReplayError):  # it is lost: `receive` says so
            worker.send(task)

    def release(self, worker: WorkerProcess) -> None:
        del self.busy[worker]
        self._idle.append(worker)

    def dismiss(self, worker: WorkerProcess) -> None:
        del self.busy[worker]

"""Many streams at once on an existing Ray cluster, one task of the cluster per stream.

Every machine of the cluster needs this package, the same version of Ray, and the recordings, the
bundle and the folder of the run under the same paths.
"""

import logging
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mtc_perception.replay.run.runners import (
    TRIES,
    Outcomes,
    StreamCount,
    now_and_then,
    outcomes,
    try_stream,
)
from mtc_perception.replay.stream.stream import finished
from mtc_perception.replay.stream.task import Failure, StreamResult, StreamTask
from mtc_perception.runtime.perceiver_pool import PerceiverPool
from mtc_perception.util.errors import ReplayError, UserError, one_line

_LISTEN_S = 0.5
_CANCEL_S = 5.0
_REACH_S = 5.0
_ANSWER_S = 10.0
_GPU_ENGINES = ("auto", "tensorrt")

_perceivers = PerceiverPool()
"""Of this worker process, which does one task after the other."""


class _Board:
    """An actor that knows how far every stream is."""

    def __init__(self) -> None:
        self._frames: dict[str, tuple[float, float | None]] = {}

    def put(self, name: str, done: float, total: float | None) -> None:
        self._frames[name] = (done, total)

    def read(self) -> dict[str, tuple[float, float | None]]:
        return self._frames


def run_on_ray(address: str, tasks: Sequence[StreamTask], count: StreamCount) -> Outcomes:
    """Evaluate every task on the cluster at `address`, as many at a time as it has processors for.

    A stream whose worker is lost is begun again by another one, up to `TRIES` times in all. What
    `UserError` a stream meets is its failure. Raises UserError where there is no such cluster, and
    ReplayError where it is lost meanwhile.
    """
    ended: dict[str, StreamResult | Failure] = {}
    with _cluster(address) as ray:
        # As long as there is a cluster, it is begun anew wherever its worker is lost.
        board = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Board).remote()
        work = ray.remote(max_retries=TRIES - 1, retry_exceptions=True)(_work)
        waiting: dict[Any, StreamTask] = {}
        try:
            for task in tasks:
                # Workers have a working directory of their own.
                task = replace(task, out=task.out.absolute())
                waiting[work.options(**_resources(ray, task)).remote(task, board)] = task
            while waiting:
                done, _ = ray.wait(list(waiting), num_returns=1, timeout=_LISTEN_S)
                with _losing_no_cluster(ray):
                    frames = ray.get(board.read.remote(), timeout=_ANSWER_S)
                for task in waiting.values():
                    if task.name in frames:
                        count(task, *frames[task.name])
                for reference in done:
                    task = waiting.pop(reference)
                    ended[task.name] = _ended(ray, reference, task)
        finally:
            for reference in waiting:
                ray.cancel(reference)
            if waiting:
                ray.wait(list(waiting), num_returns=len(waiting), timeout=_CANCEL_S)
    return outcomes(tasks, ended)


@contextmanager
def _losing_no_cluster(ray: Any) -> Iterator[None]:
    """Raise ReplayError where its head is lost; Ray itself would end this process, in a minute."""
    address = ray.get_runtime_context().gcs_address
    try:
        _reach(address)
        yield
    except (UserError, ray.exceptions.RayError):
        raise ReplayError(
            f"the Ray cluster at {address} is lost; what is finished stays: start it again and give"
            " the same command"
        ) from None


def _work(task: StreamTask, board: Any) -> StreamResult | Failure:
    """Runs in a worker of the cluster."""

    def tell(done: float, total: float | None) -> None:
        board.put.remote(task.name, done, total)

    return try_stream(task, _perceivers, now_and_then(tell))


def _ended(ray: Any, reference: Any, task: StreamTask) -> StreamResult | Failure:
    """What a task of the cluster came to."""
    try:
        ended: StreamResult | Failure = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Failure(task.name, f"tried {TRIES} times: {str(error).splitlines()[-1]}")
    if isinstance(ended, StreamResult) and finished(task) is None:
        return Failure(
            task.name,
            f"a machine of the cluster wrote {task.out}, which is not there on this one: put the "
            "folder of the run where all of them see it (--out)",
        )
    return ended


def _resources(ray: Any, task: StreamTask) -> dict[str, float]:
    """What one task occupies. Raises UserError where no machine has that much."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores, most = task.options.threads or 1, max(node.get("CPU", 0) for node in alive)
    if cores > most:
        raise UserError(f"no machine of the cluster has {cores} processors: use --threads {most:g}")
    # Ray hides the GPUs of a machine from tasks that do not ask for one.
    gpus = task.options.engine in _GPU_ENGINES and any(node.get("GPU", 0) >= 1 for node in alive)
    return {"num_cpus": cores, "num_gpus": int(gpus)}


def _reach(address: str) -> None:
    """Ray itself would try for minutes. Raises UserError where nobody listens."""
    if match := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address):
        try:
            socket.create_connection((match[1], int(match[2])), _REACH_S).close()
        except OSError as error:
            raise UserError(f"no Ray cluster at {address}: {error.strerror or error}") from None


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    try:
        import ray
    except ImportError:
        raise UserError(
            "--ray needs Ray, the cluster's version of it: pip install mtc_perception[ray]"
        ) from None
    _reach(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray has a family of errors for each way not to find a cluster
        raise UserError(f"no Ray cluster at {address}: {one_line(error)}") from None
    try:
        yield ray
    finally:
        ray.shutdown()

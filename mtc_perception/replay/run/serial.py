"""Runs the streams of a run one after the other in this process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mtc_perception.replay.stream.perceivers import PerceiverPool
from mtc_perception.replay.stream.stream import run_stream
from mtc_perception.replay.stream.task import Failure, StreamResult, StreamTask
from mtc_perception.util.errors import UserError


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the streams of a run ended, each in one of the two."""

    results: list[StreamResult]
    failures: list[Failure]


class Observer(Protocol):
    """Is told how far a run is."""

    def __call__(self, task: StreamTask, done: int, total: int) -> None:
        """`done` of `total` images of a stream, the latter as the recording claims."""


Runner = Callable[[Sequence[StreamTask], Observer], Outcomes]


def run_serial(tasks: Sequence[StreamTask], observe: Observer, *, strict: bool = False) -> Outcomes:
    """Replay every stream; one that raises UserError is a failure, and the others go on.

    `strict`: it is raised.
    """
    outcomes = Outcomes([], [])
    with PerceiverPool() as perceivers:
        for task in tasks:

            def tick(done: int, total: int, task: StreamTask = task) -> None:
                observe(task, done, total)

            try:
                outcomes.results.append(run_stream(task, perceivers, tick))
            except UserError as error:
                if strict:
                    raise
                outcomes.failures.append(Failure(task.name, str(error)))
    return outcomes

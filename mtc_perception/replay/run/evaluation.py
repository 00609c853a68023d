"""A whole run: from recordings and options to its result."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from mtc_perception.replay.options import Recording, ReplayOptions
from mtc_perception.replay.report.run_page import PAGE_FILE, write_page
from mtc_perception.replay.results.limits import Check, Limit, check_limits, junit_xml
from mtc_perception.replay.results.run_result import RESULT_FILE, merge_run, write_result
from mtc_perception.replay.run.plan import plan_run
from mtc_perception.replay.run.serial import Observer, Runner
from mtc_perception.replay.stream.stream import finished
from mtc_perception.replay.stream.task import Failure, StreamTask
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.locking import held

JUNIT_FILE = "junit.xml"


class Watching(Observer, Protocol):
    """Is told how far a run is, and before that of all its streams."""

    def planned(self, tasks: Sequence[StreamTask], there: int, run: Path) -> None:
        """`tasks` are to be done, `there` more are in the run's folder from an earlier try."""


def evaluate_run(
    recordings: Sequence[Recording],
    options: ReplayOptions,
    run: Path,
    runner: Runner,
    watching: Watching,
    *,
    name: str | None = None,
    limits: Mapping[str, Limit] = MappingProxyType({}),
    fresh: bool = False,
) -> dict[str, Any]:
    """Replay every stream that is not there yet, merge all, check the limits, write the result.

    `name` is the scenario's; `fresh` replays what is there as well. Returns the content of
    `result.json`. Raises UserError where another process works in `run`, and where nothing at all
    can be evaluated; then only `junit.xml` is written.
    """
    planned, unreadable = plan_run(recordings, options, run)
    # No folder is made for nothing but a lock.
    with held(run) if planned or limits or run.exists() else nullcontext():
        there = [] if fresh else [one for task in planned if (one := finished(task)) is not None]
        done = {result.number for result in there}
        tasks = [task for task in planned if task.number not in done]
        watching.planned(tasks, len(there), run)
        # What an earlier try came to must not be taken for what this one comes to.
        for file in (RESULT_FILE, PAGE_FILE, JUNIT_FILE):
            (run / file).unlink(missing_ok=True)
        outcomes = runner(tasks, watching)
        failures: list[Failure] = [*unreadable, *outcomes.failures]
        results = [*there, *outcomes.results]
        result = merge_run(run, results, failures) if results else {}
        checks = check_limits(result, limits)
        if limits:
            write_text_atomic(run / JUNIT_FILE, junit_xml(name or "mtc-replay", checks, failures))
        if not results:
            raise _nothing_evaluated(failures)
        result["scenario"] = name
        result["resumed"] = [one.name for one in there]
        result["checks"] = [asdict(check) for check in checks]
        result["passed"] = _passed(checks)
        write_result(run, result)
        write_page(run)
    return result


def _nothing_evaluated(failures: Sequence[Failure]) -> UserError:
    """Why, stream by stream."""
    if len(failures) == 1:
        return UserError(failures[0].error)
    reasons = "".join(f"\n  {failure.name}: {failure.error}" for failure in failures)
    return UserError(f"none of {len(failures)} streams could be evaluated:{reasons}")


def _passed(checks: Sequence[Check]) -> bool | None:
    return all(check.passed for check in checks) if checks else None

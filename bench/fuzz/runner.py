"""Runs targets, each in a process of its own that may crash or hang."""

import gc
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from bench.fuzz.messages import message_targets
from bench.fuzz.targets import Target, file_targets
from mtc_perception.util.errors import ReplayError, one_line
from mtc_perception.util.worker_process import WorkerProcess

CORPUS = Path(__file__).with_name("corpus")
"""Inputs that once were findings, in a folder for each target: tried first."""
START_S = 60.0
"""Until a target's process is ready."""
MOST_FINDINGS = 20
"""Of one target: then it is left alone."""
MOST_GROWTH = 0.1
WARM_SHARE, WARM_LEAST = 0.3, 100
"""Inputs after which memory is looked at first: buffers are as large as they get."""
_MEMORY_BYTES = 2 * 2**30
"""What a try may take beyond what the process has."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that was not answered as declared."""

    input: int | str
    """Its number, or the name of a file of the corpus."""
    what: str


@dataclass(slots=True)
class Fuzzed:
    """What came of a target."""

    inputs: int = 0
    accepted: int = 0
    """Of these: what a mutation leaves whole, or cannot be told from it."""
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    memory_growth: float | None = None
    """Of the resident memory, once warm; None where the process did not live long enough."""


def targets() -> dict[str, Target]:
    """All of them by name."""
    return {target.name: target for target in (*message_targets(), *file_targets())}


def input_of(target: Target, seed: int, number: int, seeds: Sequence[bytes]) -> bytes:
    """Any input of a run, from the seed, the target's name and its number alone."""
    return target.mutate(seeds, random.Random(f"{seed} {target.name} {number}"))


def corpus_of(target: Target) -> list[Path]:
    folder = CORPUS / target.name.replace(" ", "_")
    return sorted(folder.iterdir()) if folder.is_dir() else []


def fuzz(
    target: Target,
    seed: int,
    inputs: int,
    tick: Callable[[], None] = lambda: None,
    known: Callable[[], dict[str, Target]] = targets,
) -> Fuzzed:
    """Try the target's corpus and `inputs` made of `seed`; `tick` is called after each.

    `known`, a function of a module, is where the target's own process finds it.
    """
    fuzzed = Fuzzed()
    kept = [path.name for path in corpus_of(target)]
    todo: list[int | str] = [*kept, *range(inputs)]
    begin = time.monotonic()
    while todo and len(fuzzed.findings) < MOST_FINDINGS:
        done = _run_some(target, seed, todo, fuzzed, tick, known)
        todo = todo[done:]
    fuzzed.seconds = time.monotonic() - begin
    return fuzzed


def _run_some(
    target: Target,
    seed: int,
    todo: Sequence[int | str],
    fuzzed: Fuzzed,
    tick: Callable[[], None],
    known: Callable[[], dict[str, Target]],
) -> int:
    """Until all is done, or a try takes its process down; returns how many were tried."""
    done = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        WorkerProcess("target", run_target, known, target.name, seed, list(todo), folder) as worker,
    ):
        patience_s = START_S
        try:
            while True:
                message = worker.receive(object, patience_s)
                if message is None:
                    fuzzed.findings.append(
                        Finding(todo[done], f"takes longer than {patience_s:g} s")
                    )
                    worker.kill()
                    break
                if isinstance(message, Finding):
                    fuzzed.findings.append(message)
                    if len(fuzzed.findings) >= MOST_FINDINGS:
                        worker.kill()
                        break
                    continue
                if isinstance(message, float):
                    fuzzed.memory_growth = message
                    return done
                patience_s = target.hang_s
                if isinstance(message, bool):
                    done += 1
                    fuzzed.inputs += 1
                    fuzzed.accepted += message
                    tick()
        except ReplayError as error:
            fuzzed.findings.append(Finding(todo[done] if done < len(todo) else "end", str(error)))
    return done + 1


def run_target(
    connection: Connection,
    known: Callable[[], dict[str, Target]],
    name: str,
    seed: int,
    todo: Sequence[int | str],
    folder: str,
) -> None:
    """Worker: sends "ready", of each input whether it was accepted, every `Finding` before that,
    and in the end by how much its memory has grown."""
    with open(os.devnull, "w") as nowhere:  # what the decoders of images say of each
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    target = known()[name]
    home, work = Path(folder, "seeds"), Path(folder, "work")
    home.mkdir()
    work.mkdir()
    seeds = target.seeds(home)
    kept = {path.name: path for path in corpus_of(target)}
    warm_at = max(WARM_LEAST, round(WARM_SHARE * len(todo)))
    warm = 0
    process = psutil.Process()
    with target.trying(work) as once:
        _limit_memory(process)
        for number, whole in enumerate(seeds):
            if not once(whole):
                connection.send(Finding(f"seed {number}", "a whole input is refused"))
        connection.send("ready")
        for count, one in enumerate(todo):
            if isinstance(one, str):
                data = kept[one].read_bytes()
            else:
                data = input_of(target, seed, one, seeds)
            accepted = False
            try:
                accepted = once(data)
            except Exception as error:
                connection.send(Finding(one, one_line(error)))
            connection.send(accepted)
            if count == warm_at:
                warm = _resident(process)
        grown = _resident(process) / warm - 1 if warm else 0.0
    connection.send(grown)


def _limit_memory(process: psutil.Process) -> None:
    most = process.memory_info().vms + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _resident(process: psutil.Process) -> int:
    gc.collect()
    return int(process.memory_info().rss)

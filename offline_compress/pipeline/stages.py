"""Stages of a pipeline: done once, resumed when killed, redone when what they depend on changed.

A stage leaves `stages/NAME.json` in the folder of the run: written before it begins, and again,
last of all, when it is done. It holds the inputs of the stage and the sha256 of what it made.

What a stage has made stays where it is until its successor takes that place, or, where the stage
works in a folder that it goes on with, in `stages/.former/NAME` until the stage is done again.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.util.differences import differences
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic

MARKERS_FOLDER = "stages"


class Stage(Protocol):
    """One step of a pipeline. It finds what earlier ones made by their paths."""

    name: str
    parallel: bool
    """Whether all processes of the run take part, or the first one alone, which then must not wait
    for the others."""

    def inputs(self) -> dict[str, Any]:
        """All that the result depends on, as JSON: parts of the recipe, digests of files."""

    def made(self) -> list[Path]:
        """Files that later stages, or people, rely on."""

    def work(self) -> list[Path]:
        """Folders in which it goes on where it was stopped: set aside when it begins anew."""

    def run(self) -> None:
        """Do it, or go on where a killed process stopped. Replaces files when it has new ones."""


@dataclass(frozen=True, slots=True)
class Marker:
    """What is known of a stage that has begun."""

    inputs: dict[str, Any]
    done: bool = False
    seconds: float = 0.0
    """Worked so far; what a killed process did is not known."""
    made: dict[str, str] = field(default_factory=dict)
    """sha256 of every file made; empty as long as the stage is not done."""
    clearing: bool = False
    """Whether the folders of an earlier one were being set aside."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done about a stage, and why."""

    words: str
    skip: bool = False
    clear: bool = False
    loses: str = ""
    """What the result that is there was made of and would not be any more, in words."""
    seconds: float = 0.0
    """Already spent."""


def run_stages(stages: Sequence[Stage], folder: Path, say: Callable[[str], None]) -> None:
    """Bring every stage up to date, in order, in a folder that exists.

    All processes of a run call it together; `say` is told what happens, in the first one. Raises
    whatever a stage raises; the same call then goes on from there.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    processes = PartialState()
    main = processes.is_main_process
    # What follows the last common stage may take longer than processes wait for each other.
    common = max((number for number, one in enumerate(stages, 1) if one.parallel), default=0)
    for number, stage in enumerate(stages, 1):
        together = processes.num_processes > 1 and number <= common
        if not (main or together):
            break
        told = [_decided(stage, folder) if main else None]
        if together:
            broadcast_object_list(told)
        decision = told[0]
        assert decision is not None
        if main:
            say(f"[{number}/{len(stages)}] {stage.name}: {decision.words}")
        if decision.skip:
            continue
        if main:
            with _recorded(stage, folder, decision) as seconds:
                stage.run()
            say(f"[{number}/{len(stages)}] {stage.name}: done in {duration(seconds())}")
        elif stage.parallel:
            stage.run()
        if together:
            processes.wait_for_everyone()


def refuse_losses(stages: Sequence[Stage], folder: Path) -> None:
    """Raise UserError, which names the field, if a finished stage is of other inputs."""
    for stage in stages:
        with suppress(UserError):  # what is missing or damaged is done again, and told then
            loses = decide(stage, folder).loses
            if loses:
                break
    else:
        return
    raise UserError(
        f"{folder} holds the result of something else: {loses}; give another --out, or --redo to "
        f"do {stage.name} and what depends on it again"
    )


def _decided(stage: Stage, folder: Path) -> Decision:
    decision = decide(stage, folder)
    if decision.clear and _restored(stage, folder):
        return decide(stage, folder)
    return decision


def decide(stage: Stage, folder: Path) -> Decision:
    """Whether a stage must run, from scratch or on from where it stopped."""
    marker = read_marker(folder, stage.name)
    if marker is None:
        return Decision("begins", clear=True)
    if changes := differences(marker.inputs, as_json(stage.inputs())):
        more = f", and {len(changes) - 1} more" if len(changes) > 1 else ""
        # By what words it is asked for changes the record of a result, not the result.
        other = [change for change in changes if not change.startswith("command ")]
        loses = f"{other[0]}{more}" if marker.done and other else ""
        return Decision(f"again, because {changes[0]}{more}", clear=True, loses=loses)
    if marker.clearing:
        return Decision("begins", clear=True)
    if not marker.done:
        return Decision("goes on where it stopped", seconds=marker.seconds)
    made = {_short(path, folder): digest_of(path) for path in stage.made()}
    for name in dict.fromkeys([*made, *marker.made]):
        found = made.get(name)
        if not found or found != marker.made.get(name):
            what = "has changed" if found else "is missing"
            return Decision(f"again, because {name} {what}", clear=True)
    return Decision(f"was done before, in {duration(marker.seconds)}", skip=True)


@contextmanager
def _recorded(stage: Stage, folder: Path, decision: Decision) -> Iterator[Callable[[], float]]:
    """Write the stage's marker before and after; gives the seconds that it has taken."""
    inputs = as_json(stage.inputs())
    before = read_marker(folder, stage.name)
    former = dict.fromkeys(before.made if before else (), "")
    if decision.clear:
        _set_aside(stage, folder, inputs, before)
    planned = former | {_short(path, folder): "" for path in stage.made()}
    write_marker(folder, stage.name, Marker(inputs, seconds=decision.seconds, made=planned))
    begin = time.monotonic()

    def seconds() -> float:
        return round(decision.seconds + time.monotonic() - begin, 1)

    try:
        yield seconds
    except BaseException:
        write_marker(folder, stage.name, Marker(inputs, seconds=seconds(), made=planned))
        raise
    made = {_short(path, folder): digest_of(path) for path in stage.made()}
    if missing := [path for path, digest in made.items() if not digest]:
        raise RuntimeError(f"stage {stage.name} did not write {missing[0]}")
    write_marker(folder, stage.name, Marker(inputs, True, seconds(), made))
    _remove(folder, former.keys() - made.keys())
    shutil.rmtree(_former(stage, folder), ignore_errors=True)


def _former(stage: Stage, folder: Path) -> Path:
    return folder / MARKERS_FOLDER / ".former" / stage.name


def _set_aside(stage: Stage, folder: Path, inputs: dict[str, Any], before: Marker | None) -> None:
    """Make room for a stage that begins anew; what is whole is kept until it is done."""
    former = _former(stage, folder)
    if before and before.done:
        shutil.rmtree(former, ignore_errors=True)
        write_marker(former, stage.name, before)
    # A process killed in between must not leave a half that passes for a whole.
    made = before.made if before else {}
    write_marker(folder, stage.name, Marker(inputs, made=made, clearing=True))
    for path in stage.work():
        aside = former / path.name
        if former.exists() and path.exists() and not aside.exists():
            os.replace(path, aside)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _restored(stage: Stage, folder: Path) -> bool:
    """Whether what was set aside is of these inputs and is in its place again."""
    former = _former(stage, folder)
    kept = read_marker(former, stage.name)
    if kept is None or kept.inputs != as_json(stage.inputs()):
        return False
    write_marker(folder, stage.name, Marker(kept.inputs, made=kept.made, clearing=True))
    for path in stage.work():
        if (former / path.name).exists():
            shutil.rmtree(path, ignore_errors=True)
            os.replace(former / path.name, path)
    write_marker(folder, stage.name, kept)
    shutil.rmtree(former)
    return True


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files below `folder` that a stage made under other names, as a student's former one.

    A folder that is empty then goes as well; what others have put beside them stays.
    """
    for path in (folder / name for name in names):
        if path.resolve().is_relative_to(folder.resolve()):
            path.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()


def read_marker(folder: Path, name: str) -> Marker | None:
    """The marker of a stage; None if it never began. Raises UserError if it is damaged."""
    path = folder / MARKERS_FOLDER / f"{name}.json"
    try:
        return Marker(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it to do the stage again") from None


def write_marker(folder: Path, name: str, marker: Marker) -> None:
    """Write the marker of a stage, atomically."""
    (folder / MARKERS_FOLDER).mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(marker), indent=2) + "\n"
    write_text_atomic(folder / MARKERS_FOLDER / f"{name}.json", text)


def digest_of(path: Path) -> str:
    """sha256 of a file; empty if there is none."""
    return sha256_hex(path.read_bytes()) if path.is_file() else ""


def duration(seconds: float) -> str:
    """Seconds, in words."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _short(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def as_json(content: dict[str, Any]) -> dict[str, Any]:
    """As it will be read back."""
    read: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return read

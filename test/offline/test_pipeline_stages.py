"""Stages: done once, resumed after a kill anywhere, redone when and only when they must be."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtc_perception.util.differences import differences
from mtc_perception.util.errors import UserError
from offline_compress.pipeline import stages
from offline_compress.pipeline.stages import Stage, refuse_losses, run_stages


class Killed(BaseException):
    """Not an Exception: nothing may catch it."""


class Appender:
    """A stage that makes one file of those before it, in several resumable pieces."""

    parallel = True

    def __init__(self, folder: Path, name: str, before: str | None, value: str) -> None:
        self.folder, self.name, self.before, self.value = folder, name, before, value
        self.pieces = 0
        self.runs = 0

    @property
    def path(self) -> Path:
        return self.folder / self.name / "made.txt"

    def inputs(self) -> dict[str, Any]:
        read = (self.folder / self.before / "made.txt").read_text() if self.before else ""
        return {"before": read, "recipe": {"value": self.value}}

    def made(self) -> list[Path]:
        return [self.path]

    def work(self) -> list[Path]:
        return [self.path.parent]

    def run(self) -> None:
        self.runs += 1
        self.path.parent.mkdir(exist_ok=True)
        before = self.inputs()["before"]
        for piece in range(3):
            part = self.path.with_name(f"piece{piece}")
            if not part.exists():
                tick()
                part.write_text(f"{before}{self.value}{piece} ")
                self.pieces += 1
        tick()
        self.path.write_text("".join(sorted(p.read_text() for p in self.path.parent.glob("p*"))))


def no_tick() -> None:
    pass


tick: Callable[[], None] = no_tick


def chain(folder: Path, *values: str) -> list[Appender]:
    names = ["one", "two", "three"]
    return [
        Appender(folder, name, before, value)
        for name, before, value in zip(names, [None, *names], values, strict=False)
    ]


def run(stages_: list[Appender], folder: Path) -> list[str]:
    said: list[str] = []
    as_stages: list[Stage] = list(stages_)
    run_stages(as_stages, folder, said.append)
    return said


def test_each_stage_runs_once(tmp_path: Path) -> None:
    said = run(chain(tmp_path, "a", "b", "c"), tmp_path)
    assert [line.split(":")[0] for line in said[::2]] == ["[1/3] one", "[2/3] two", "[3/3] three"]
    again = chain(tmp_path, "a", "b", "c")
    assert all("was done before" in line for line in run(again, tmp_path))
    assert [stage.runs for stage in again] == [0, 0, 0]


def test_a_changed_input_redoes_what_depends_on_it_and_says_why(tmp_path: Path) -> None:
    run(chain(tmp_path, "a", "b", "c"), tmp_path)
    changed = chain(tmp_path, "a", "B", "c")
    said = run(changed, tmp_path)
    assert [stage.runs for stage in changed] == [0, 1, 1]
    assert "again, because recipe.value was b and is B" in said[1]
    assert "again, because before was" in said[3]
    assert "B" in changed[2].path.read_text()
    assert "b" not in changed[2].path.read_text()


def test_what_came_out_the_same_changes_nothing_after_it(tmp_path: Path) -> None:
    whole = chain(tmp_path, "a", "b", "c")
    run(whole, tmp_path)
    whole[1].path.unlink()
    again = chain(tmp_path, "a", "b", "c")
    said = run(again, tmp_path)
    assert [stage.runs for stage in again] == [0, 1, 0]
    assert "because two/made.txt is missing" in said[1]


@pytest.mark.fault(
    area="offline",
    row="a file of a finished compression is changed or removed",
    answer="Its stage is done again, and what depends on it.",
    diagnostics="A line with the file.",
)
def test_a_file_that_was_tampered_with_is_made_again(tmp_path: Path) -> None:
    whole = chain(tmp_path, "a", "b", "c")
    run(whole, tmp_path)
    kept = whole[2].path.read_text()
    whole[2].path.write_text("x")
    said = run(chain(tmp_path, "a", "b", "c"), tmp_path)
    assert "because three/made.txt has changed" in said[2]
    assert whole[2].path.read_text() == kept


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(kills=st.lists(st.integers(0, 30), max_size=4), data=st.data())
def test_killed_anywhere_it_ends_the_same(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], data: st.DataObject
) -> None:
    """A kill at any piece of work, or at any file that is put in place, and at several."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        left = -1

        def count() -> None:
            nonlocal left
            if left == 0:
                left = -1  # a dead process writes no more markers
                patch.setattr(stages, "write_marker", lambda *_: None)
                raise Killed
            left -= 1

        write_marker = stages.write_marker

        def counted(*arguments: Any) -> None:
            count()
            write_marker(*arguments)

        patch.setitem(globals(), "tick", count)
        pieces = 0
        for moment in [*kills, -1]:
            left = moment
            patch.setattr(stages, "write_marker", counted)
            one = chain(folder, "a", "b", "c")
            with suppress(Killed):
                run(one, folder)
            pieces += sum(stage.pieces for stage in one)
    assert pieces == 9  # nothing was done twice
    untouched = tmp_path_factory.mktemp("whole")
    whole = chain(untouched, "a", "b", "c")
    run(whole, untouched)
    for stage, reference in zip(one, whole, strict=True):
        assert stage.path.read_text() == reference.path.read_text()


def test_a_stage_stopped_halfway_begins_anew_if_its_inputs_have_changed(tmp_path: Path) -> None:
    def killed() -> None:
        raise Killed

    stage = chain(tmp_path, "a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "tick", lambda: stage[0].pieces == 2 and killed())
        with pytest.raises(Killed):
            run(stage, tmp_path)
    other = chain(tmp_path, "A")
    assert "because recipe.value was a and is A" in run(other, tmp_path)[0]
    assert "a" not in other[0].path.read_text()


def killed_at(piece: int) -> Callable[[], None]:
    """A `tick` that kills so many pieces of work later."""
    left = iter(range(piece, -1, -1))

    def killed() -> None:
        if next(left) == 0:
            raise Killed

    return killed


@pytest.mark.fault(
    area="offline",
    row="a finished run is to be done again (--redo) and is killed or fails in the middle",
    answer="What was finished is kept until its successor is; its own recipe has it back.",
    diagnostics="Every stage says why it is done again.",
)
def test_what_is_whole_is_kept_until_it_is_done_again(tmp_path: Path) -> None:
    run(chain(tmp_path, "a", "b"), tmp_path)
    wanted = chain(tmp_path, "a", "b")[1].path.read_text()
    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        patch.setitem(globals(), "tick", killed_at(6))
        run(chain(tmp_path, "A", "b"), tmp_path)
    back = chain(tmp_path, "a", "b")
    run(back, tmp_path)
    # The first stage was done by then, the second one was not.
    assert [stage.pieces for stage in back] == [3, 0]
    assert back[1].path.read_text() == wanted
    assert not list((tmp_path / "stages" / ".former").glob("*"))


@pytest.mark.parametrize("moment", range(9))
@pytest.mark.parametrize("value", ["A", "a"])
def test_what_was_killed_while_it_was_set_aside_does_not_pass_for_whole(
    tmp_path: Path, moment: int, value: str
) -> None:
    run(chain(tmp_path, "a"), tmp_path)
    kill = killed_at(moment)

    def die_at(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            kill()
            return function(*arguments, **named)

        return called

    with pytest.MonkeyPatch.context() as patch, suppress(Killed, StopIteration):
        for module, name in (
            (stages.os, "replace"),
            (stages.shutil, "rmtree"),
            (stages, "write_marker"),
        ):
            patch.setattr(module, name, die_at(getattr(module, name)))
        run(chain(tmp_path, "A"), tmp_path)
        run(chain(tmp_path, "a"), tmp_path)
    one = chain(tmp_path, value)
    run(one, tmp_path)
    assert one[0].path.read_text() == f"{value}0 {value}1 {value}2 "
    again = chain(tmp_path, value)
    run(again, tmp_path)
    assert again[0].runs == 0


def test_the_result_of_other_inputs_is_refused_and_the_field_named(tmp_path: Path) -> None:
    run(chain(tmp_path, "a", "b"), tmp_path)
    same: list[Stage] = list(chain(tmp_path, "a", "b"))
    refuse_losses(same, tmp_path)
    other: list[Stage] = list(chain(tmp_path, "a", "B"))
    with pytest.raises(UserError, match=r"recipe\.value was b and is B; .*, or --redo to do two "):
        refuse_losses(other, tmp_path)


def test_a_file_that_is_missing_from_those_made_is_noticed(tmp_path: Path) -> None:
    """Also where the stage finds what it has made by looking."""
    run(chain(tmp_path, "a"), tmp_path)
    one = chain(tmp_path, "a")
    marker = tmp_path / "stages" / "one.json"
    content = json.loads(marker.read_text())
    content["made"]["one/graph.onnx"] = "0"
    marker.write_text(json.dumps(content))
    assert "because one/graph.onnx is missing" in run(one, tmp_path)[0]


def test_time_adds_up_over_interruptions(tmp_path: Path) -> None:
    run(chain(tmp_path, "a"), tmp_path)
    marker = tmp_path / "stages" / "one.json"
    content = json.loads(marker.read_text())
    marker.write_text(json.dumps(content | {"done": False, "seconds": 100.0}))
    run(chain(tmp_path, "a"), tmp_path)
    assert 100 <= json.loads(marker.read_text())["seconds"] < 101


def test_a_damaged_marker_is_named(tmp_path: Path) -> None:
    run(chain(tmp_path, "a"), tmp_path)
    (tmp_path / "stages" / "one.json").write_text("{")
    with pytest.raises(UserError, match=r"one\.json is damaged .*; delete it"):
        run(chain(tmp_path, "a"), tmp_path)


def test_differences_name_the_field() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ["a.c was 2 and is 3"]
    assert differences({"a": 1}, {"a": 1, "b": [2]}) == ["b was not given and is [2]"]
    assert differences({"a": {}}, {"a": {}}) == []
    assert differences({"a": [{"b": 1}]}, {"a": [{"b": 2}]}) == ["a.0.b was 1 and is 2"]

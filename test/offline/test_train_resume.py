"""Interrupted training resumes exactly, and knows which run it goes on with."""

import multiprocessing
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import Count
from offline_compress.data.cache import DecodedImages
from offline_compress.models.registry import ModelSpec, load_checkpoint
from offline_compress.training import stopping
from offline_compress.training.learner import Learner
from offline_compress.training.log import LOG_FILE
from offline_compress.training.state import PREVIOUS_STATE_FILE, STATE_FILE
from offline_compress.training.stopping import Interrupted, StopRequest
from offline_compress.training.trainer import Trainer
from support.tiny_training import digest, tiny_recipe
from support.training_rig import Scores, interrupt_at, rows, weights

pytestmark = pytest.mark.slow


@pytest.mark.fault(
    area="signal",
    row="Ctrl-C or SIGTERM while a network is trained",
    answer="The step under way is saved; the same command ends with the same weights.",
    diagnostics="A line says so; the exit code is 128 and the signal's number.",
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_resumes_to_the_same_weights_and_log(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    recipe = tiny_recipe(dataset, {"epochs": 3})
    whole = Trainer(recipe, tmp_path / "whole", Scores(0.5))
    whole.run()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        interrupt_at(2, patch, number)
        with pytest.raises(Interrupted) as interrupted:
            Trainer(recipe, tmp_path / "parts", Scores(0.5)).run()
    assert interrupted.value.signal == number
    # Not even while somebody holds the exception: they would keep this process from ending.
    assert not multiprocessing.active_children()
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    rest = Trainer(recipe, tmp_path / "parts", Scores(0.5))
    assert rest.step == 3
    rest.run()
    assert weights(rest) == weights(whole)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_run_stopped_while_it_validates_does_that_again(dataset: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(dataset)
    whole = Trainer(recipe, tmp_path / "whole", Scores(0.5))
    whole.run()

    def stop(_model: nn.Module, _spec: ModelSpec, count: Count) -> dict[str, Any]:
        signal.raise_signal(signal.SIGTERM)
        count(0, 1)
        raise AssertionError("the run goes on")

    for epoch in (1, 2):
        with pytest.raises(Interrupted):
            Trainer(recipe, tmp_path / "parts", stop).run()
        logged = (tmp_path / "parts" / LOG_FILE).exists()
        assert (len(rows(tmp_path / "parts")) if logged else 0) == epoch - 1
        rest = Trainer(recipe, tmp_path / "parts", Scores(0.5))
        assert rest.step == 2 * epoch
        if epoch == 1:
            with pytest.MonkeyPatch.context() as patch:
                interrupt_at(2, patch, signal.SIGTERM)
                with pytest.raises(Interrupted):
                    rest.run()
        else:
            rest.run()
    assert weights(rest) == weights(whole)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_run_stopped_while_it_decodes_ends_at_once(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_images: DecodedImages, **_part: int) -> Iterator[tuple[int, int]]:
        signal.raise_signal(signal.SIGINT)
        yield 1, 6
        raise AssertionError("the run goes on")

    monkeypatch.setattr(DecodedImages, "fill", fill)
    with pytest.raises(Interrupted):
        Trainer(tiny_recipe(dataset), tmp_path, Scores(0.5)).run()
    assert not (tmp_path / STATE_FILE).exists()


@pytest.mark.fault(
    area="offline",
    row="a training is killed between its log and its next save",
    answer="What was logged after the last save is dropped and logged again.",
    diagnostics="Nothing.",
)
def test_what_a_killed_run_logged_after_its_last_save_is_dropped(
    dataset: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(dataset)
    Trainer(recipe, tmp_path, Scores(0.5)).run()
    wanted = rows(tmp_path)
    (tmp_path / STATE_FILE).unlink()
    (tmp_path / PREVIOUS_STATE_FILE).unlink(missing_ok=True)
    with (tmp_path / LOG_FILE).open("a") as log:
        log.write('{"epoch": 3, "st')
    Trainer(recipe, tmp_path, Scores(0.5)).run()
    assert rows(tmp_path) == wanted


def test_a_run_may_start_from_a_checkpoint(dataset: Path, tmp_path: Path) -> None:
    first = Trainer(tiny_recipe(dataset), tmp_path / "first", Scores(0.5))
    first.run()
    recipe = tiny_recipe(dataset, start_from=tmp_path / "first" / "last")
    second = Trainer(recipe, tmp_path / "second", Scores(0.5))
    assert digest(first.learner.average.state) == digest(second.learner.model.state_dict())
    second.run()
    shutil.rmtree(tmp_path / "first")
    again = Trainer(recipe, tmp_path / "second", Scores(0.5))
    assert again.spec == second.spec
    assert second.spec.data == ["roads train"]
    assert len(second.spec.lineage) == 2
    assert second.spec.lineage[0].endswith("from scratch, 16 images in 2 epochs")


def test_a_run_is_known_by_the_weights_it_began_with_not_their_place(
    dataset: Path, tmp_path: Path
) -> None:
    Trainer(tiny_recipe(dataset), tmp_path / "first", Scores(0.5)).run()
    recipe = tiny_recipe(dataset, start_from=tmp_path / "first" / "last")
    Trainer(recipe, tmp_path / "second", Scores(0.5)).run()
    (tmp_path / "first").rename(tmp_path / "moved")
    moved = tiny_recipe(dataset, start_from=tmp_path / "moved" / "last")
    assert Trainer(moved, tmp_path / "second", Scores(0.5)).over
    # Itself is not what it began with.
    for start in (tmp_path / "second" / "last", tmp_path / "nowhere", None):
        with pytest.raises(UserError, match="different recipe"):
            Trainer(tiny_recipe(dataset, start_from=start), tmp_path / "second", Scores(0.5))


@pytest.mark.fault(
    area="offline",
    row="a training is given to go on with another recipe",
    answer="Refused, the run stays; more epochs make it longer.",
    diagnostics="One line with the field, what it was and what it is.",
)
def test_a_run_of_another_recipe_is_not_continued(dataset: Path, tmp_path: Path) -> None:
    Trainer(tiny_recipe(dataset, {"epochs": 1}), tmp_path, Scores(0.5)).run()
    source = {"root": str(dataset), "split": "val"}
    for recipe, words in (
        (tiny_recipe(dataset, {"batch": 8}), r"different recipe: schedule\.batch was 4 and is 8; "),
        (tiny_recipe(dataset, train=[source]), r"train\.0\.split was train and is val; "),
        (tiny_recipe(dataset, mosaic=0.5, seed=1), r"mosaic was 0\.0 and is 0\.5, and 1 more; "),
    ):
        with pytest.raises(UserError, match=words):
            Trainer(recipe, tmp_path, Scores(0.5))
    # How it is computed may change: this is what the advice for too little memory asks for.
    changed = tiny_recipe(dataset, {"epochs": 1, "accumulate": 2}, checkpoint_minutes=1)
    assert Trainer(changed, tmp_path, Scores(0.5)).over


def test_more_epochs_make_a_run_longer(dataset: Path, tmp_path: Path) -> None:
    Trainer(tiny_recipe(dataset, {"epochs": 1}), tmp_path, Scores(0.5)).run()
    longer = Trainer(tiny_recipe(dataset, {"epochs": 3}), tmp_path, Scores(0.6, 0.7))
    assert (longer.step, longer.over) == (2, False)
    longer.run()
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3]
    assert (longer.step, longer.best_epoch) == (6, 3)
    with pytest.raises(UserError, match=r"has done 3 epochs: set schedule\.epochs to that"):
        Trainer(tiny_recipe(dataset, {"epochs": 2}), tmp_path, Scores(0.5))


def test_a_run_keeps_what_it_began_with_if_nothing_is_better(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(tiny_recipe(dataset, {"epochs": 1}), tmp_path / "first", Scores(0.5)).run()
    start = tmp_path / "first" / "best"
    recipe = tiny_recipe(dataset, start_from=start)
    for name, scores, best_epoch in (("worse", (0.5, 0.4), 0), ("better", (0.5, 0.4, 0.6), 2)):
        run = Trainer(recipe, tmp_path / name, Scores(*scores))
        run.run()
        assert run.best_epoch == best_epoch
        assert [row["epoch"] for row in rows(tmp_path / name)] == [0, 1, 2]
        kept = digest(load_checkpoint(tmp_path / name / "best").state_dict())
        assert (kept == digest(load_checkpoint(start).state_dict())) == (not best_epoch)
        told = " ".join(capsys.readouterr().out.split())
        assert ("no epoch scored better than" in told) == (not best_epoch)


def test_a_run_that_was_killed_while_it_judged_its_start_does_that_again(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trainer(tiny_recipe(dataset, {"epochs": 1}), tmp_path / "first", Scores(0.5)).run()
    recipe = tiny_recipe(dataset, start_from=tmp_path / "first" / "best")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # It dies in the first step, before anything is saved.
        patch.setattr(Learner, "train_step", die)
        with pytest.raises(KeyboardInterrupt):
            Trainer(recipe, tmp_path / "run", Scores(0.5)).run()
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [0]
    Trainer(recipe, tmp_path / "run", Scores(0.5)).run()
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [0, 1, 2]


@pytest.mark.fault(
    area="offline",
    row="the state of a training is damaged or of another version",
    answer="Refused with exit code 2; the state before it is there to go on from.",
    diagnostics="One line: which file, and what to delete.",
)
def test_a_damaged_state_names_what_to_delete(dataset: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(dataset, checkpoint_minutes=0)
    Trainer(recipe, tmp_path, Scores(0.5)).run()
    state = tmp_path / STATE_FILE
    content = state.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"nonsense"):
        state.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{STATE_FILE} is damaged.*delete it") as raised:
            Trainer(recipe, tmp_path, Scores(0.5))
        assert PREVIOUS_STATE_FILE in str(raised.value)
    state.unlink()
    before_validation = Trainer(recipe, tmp_path, Scores(0.5))
    assert (before_validation.step, before_validation.ended_epochs) == (4, 1)
    torch.save({"step": 1}, state)
    with pytest.raises(UserError, match="no state of this version"):
        Trainer(recipe, tmp_path, Scores(0.5))


def test_a_signal_that_the_launcher_repeats_is_one_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Shells start what runs in the background deaf to Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopRequest() as request:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            assert request.signal == signal.SIGINT
            monkeypatch.setattr(stopping, "ECHO_S", 0.0)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

"""What training refuses, and its advice when a run cannot go on."""

from pathlib import Path

import pytest
import torch

from mtc_perception.util.errors import UserError
from offline_compress.training.advice import memory_advice
from offline_compress.training.learner import Learner
from offline_compress.training.state import STATE_FILE
from offline_compress.training.trainer import Trainer
from support.tiny_training import tiny_recipe
from support.training_rig import Scores


def test_what_does_not_fit_the_machine_is_refused(dataset: Path, tmp_path: Path) -> None:
    for recipe, words in (
        (tiny_recipe(dataset, {"accumulate": 3}), "batch 4 cannot be split evenly"),
        (tiny_recipe(dataset, precision="fp16"), "precision fp16 needs a GPU"),
        (tiny_recipe(dataset, start_from=tmp_path), "is no checkpoint"),
        (tiny_recipe(dataset, model="tinny"), "unknown model 'tinny'"),
        (tiny_recipe(dataset, arguments={"steam": 8}), "do not fit architecture .*'steam'"),
        (tiny_recipe(dataset, arguments={"depths": [1, 2]}), "do not fit architecture"),
        (
            tiny_recipe(dataset, model="rmt_ppad_n", arguments={"segmentation": "Full"}),
            "unknown segmentation 'Full'; known: full, stride4",
        ),
    ):
        with pytest.raises(UserError, match=words):
            Trainer(recipe, tmp_path / "run", Scores(0.5))
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(
    area="offline",
    row="losses or gradients of a training are no longer finite",
    answer="It ends with exit code 2; what was saved before is intact.",
    diagnostics="One line: the step, and what to lower.",
)
@pytest.mark.slow
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_diverging_run_stops_with_advice_and_saves_nothing(
    dataset: Path, tmp_path: Path, where: str
) -> None:
    recipe = tiny_recipe(dataset, checkpoint_minutes=0)
    trainer = Trainer(recipe, tmp_path, Scores(0.5))
    parameter = next(trainer.learner.model.parameters())
    if where == "loss":
        with torch.no_grad():
            parameter.fill_(float("nan"))
    else:
        parameter.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match=rf"the {where}.*at step 0; lower learning_rate"):
        trainer.run()
    assert not (tmp_path / STATE_FILE).exists()


@pytest.mark.fault(
    area="memory",
    row="memory runs out while a network is trained",
    answer="It ends with exit code 2; the same command resumes.",
    diagnostics="One line: what to set so that it needs less.",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_answered_with_advice(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    trainer = Trainer(tiny_recipe(dataset), tmp_path, Scores(0.5))
    monkeypatch.setattr(Learner, "train_step", fail)
    with pytest.raises(UserError, match=r"accumulate.*crop") as raised:
        trainer.run()
    assert "\n" not in str(raised.value)


@pytest.mark.fault(
    area="memory",
    row="a process that loads samples, or another one of a training, is killed",
    answer="It ends with exit code 2; the same command resumes.",
    diagnostics="One line with the likely cause and what to do.",
)
@pytest.mark.parametrize(
    ("message", "advice"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory.",
            "enlarge it .*--shm-size",
        ),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", "because memory ran out"),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "because memory ran out"),
        ("[gloo] Connection closed by peer [127.0.0.1]:29500", "another process of the run failed"),
    ],
)
def test_what_kills_helpers_is_told(message: str, advice: str) -> None:
    with pytest.raises(UserError, match=advice), memory_advice():
        raise RuntimeError(message)


@pytest.mark.slow
def test_other_errors_are_not_taken_for_too_little_memory(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer = Trainer(tiny_recipe(dataset), tmp_path, Scores(0.5))
    monkeypatch.setattr(Learner, "train_step", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.run()

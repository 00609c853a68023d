"""Training for real on a tiny data set: it learns, steps as told, and says how far it is."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench import training
from mtc_perception.util import progress
from offline_compress.models.registry import load_checkpoint, load_spec, model_spec
from offline_compress.recipe.parts import DataSource
from offline_compress.training import trainer as trainer_module
from offline_compress.training.accelerator import choose_precision, start_accelerator
from offline_compress.training.step_schedule import parameter_groups
from offline_compress.training.trainer import Trainer
from support.tiny_training import tiny_recipe
from support.training_rig import Scores, rows

pytestmark = pytest.mark.slow


def test_it_learns_and_leaves_a_record(dataset: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(dataset, {"epochs": 6, "samples_per_epoch": 24, "learning_rate": 0.01})
    Trainer(recipe, tmp_path, Scores(0.5)).run()
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    for task in ("detection", "drivable"):
        assert rows(tmp_path)[-1]["loss"][task] < rows(tmp_path)[0]["loss"][task]
    assert load_checkpoint(tmp_path / "best").training is False
    lineage = load_spec(tmp_path / "last").lineage
    assert lineage[-1].endswith("from scratch, 144 images in 6 epochs")
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"train/lane", "train/rate", "drivable/miou"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("train/lane")] == [10, 20, 30]


def test_a_recipe_may_change_the_shape_of_its_model(dataset: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe(dataset, arguments={"lane": 16}), tmp_path, Scores(0.5))
    assert trainer.learner.model.lane_head.tower[0].out_channels == 16  # type: ignore[union-attr,index]
    assert trainer.learner.model.drivable_head.tower[0].out_channels == 8  # type: ignore[union-attr,index]


def test_a_run_ends_early_when_nothing_gets_better(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(dataset, {"epochs": 20, "patience_epochs": 2})
    Trainer(recipe, tmp_path, Scores(0.3, 0.5, 0.4, 0.45, 0.6)).run()
    assert rows(tmp_path)[-1]["epoch"] == 4
    assert "no better score since epoch 2" in capsys.readouterr().out
    again = Trainer(recipe, tmp_path, Scores(0.9))
    assert again.over
    again.run()
    assert len(rows(tmp_path)) == 4


def test_scores_of_other_figures_are_no_measure(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run goes on with a version that scores otherwise: its best is the best from then on."""
    Trainer(tiny_recipe(dataset, {"epochs": 1}), tmp_path, Scores(0.9)).run()
    recipe = tiny_recipe(dataset, {"epochs": 3})
    assert Trainer(recipe, tmp_path, Scores(0.5)).best == pytest.approx(0.9)
    monkeypatch.setattr(trainer_module, "SCORED_NAMES", ["detection.recall"])
    trainer = Trainer(recipe, tmp_path, Scores(0.5, 0.4))
    trainer.run()
    assert (trainer.best, trainer.best_epoch) == (pytest.approx(0.5), 2)


def test_a_step_in_several_passes_is_the_mean_of_their_gradients(
    dataset: Path, tmp_path: Path
) -> None:
    """Two passes over the same two samples are one pass over them."""
    single = Trainer(
        tiny_recipe(dataset, {"batch": 2, "warmup_epochs": 0}, precision="fp32"),
        tmp_path / "a",
        Scores(0.5),
    )
    batch = next(iter_batches(single, 2))
    single.learner.train_step([batch])
    double = Trainer(
        tiny_recipe(dataset, {"batch": 4, "accumulate": 2, "warmup_epochs": 0}, precision="fp32"),
        tmp_path / "b",
        Scores(0.5),
    )
    double.learner.train_step([batch, batch])
    for one, two in zip(
        single.learner.model.parameters(), double.learner.model.parameters(), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def iter_batches(trainer: Trainer, size: int) -> Iterator[Any]:
    from offline_compress.data.batch import collate

    yield collate([trainer.data[number] for number in range(size)])


def test_the_backbone_may_learn_slower(dataset: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(dataset, {"backbone_rate": 0.1, "weight_decay": 0.0})
    trainer = Trainer(recipe, tmp_path, Scores(0.5))
    learner = trainer.learner
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    learner.train_step([next(iter_batches(trainer, 4))])
    moved: dict[bool, float] = {True: 0.0, False: 0.0}
    for name, parameter in learner.model.named_parameters():
        inside = name.startswith("backbone.")
        change = float((parameter.detach() - before[name]).abs().max())
        moved[inside] = max(moved[inside], change)
    rate = recipe.schedule.learning_rate * learner.schedule.rate(0)
    # The first step of AdamW moves by the learning rate, whatever the gradient.
    assert moved[False] == pytest.approx(rate, rel=0.01)
    assert moved[True] == pytest.approx(rate / 10, rel=0.01)


def test_weights_decay_but_not_what_mixes_features() -> None:
    model = model_spec("rmt_ppad_n", ["vehicle"], 64, 96).build()
    schedule = tiny_recipe(Path("x"), {"weight_decay": 0.1}).schedule
    decayed = {
        id(p) for g in parameter_groups(model, schedule) if g["weight_decay"] for p in g["params"]
    }
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert "detection_head.layers.0.self_attention.in_proj_weight" in names
    assert "backbone.stem.stem1.conv.weight" in names
    mixing = ("blend", "mask_decoder.weights.weight", "denoising_content.weight", "norm.weight")
    assert not [name for name in names if name.endswith(mixing)]
    grouped = [p for group in parameter_groups(model, schedule) for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(list(model.parameters()))


def test_no_warning_reaches_the_user(dataset: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(tiny_recipe(dataset, {"epochs": 1}), tmp_path, Scores(0.5)).run()


def test_throughput_is_measured_for_network_loader_and_both(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "ROADS", DataSource(root=dataset, split="train"))
    found = training.measure(tiny_recipe(dataset, {"epochs": 10}), seconds=0)
    assert found.batch == 4
    assert min(found.network, found.loader, found.training) > 0


def test_without_a_terminal_there_is_a_line_now_and_then(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    Trainer(tiny_recipe(dataset), tmp_path, Scores(0.5)).run()
    lines = capsys.readouterr().out.splitlines()
    number = r"\d+\.\d+"
    losses = f"detection {number} drivable {number} lane {number}"
    batch = tiny_recipe(dataset).schedule.batch
    done = rf"training {3 * batch}/{4 * batch} {number} img/s \d:\d\d:\d\d left"
    line = rf"{done} epoch 2/2 \| {losses} \| best 0"
    assert any(re.match(line, one) for one in lines), lines
    assert sum(one.startswith("epoch 1/2") for one in lines) == 1


@pytest.mark.parametrize(
    ("able", "chosen"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32")],
)
def test_precision_follows_the_cpu(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], chosen: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert choose_precision("auto", cuda=False) == chosen
    assert choose_precision("fp32", cuda=False) == "fp32"


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "fp16"), ((8, 0), "bf16")])
def test_precision_follows_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert choose_precision("auto", cuda=True) == chosen


@pytest.mark.parametrize("asked", [True, False])
def test_deterministic_algorithms_are_asked_of_cudnn_or_the_fastest(*, asked: bool) -> None:
    start_accelerator("fp32", 1, asked)
    assert torch.backends.cudnn.deterministic == asked
    assert torch.backends.cudnn.benchmark != asked
    start_accelerator("fp32", 1)
    assert not torch.backends.cudnn.deterministic

"""Training for real on a tiny data set: it learns, resumes exactly, and refuses nonsense."""

import json
import multiprocessing
import re
import shutil
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import digest, register, tiny_recipe
from torch import nn

from bench import training
from mtc_perception.errors import UserError
from offline_compress.data.augment import LabelledImage
from offline_compress.data.dataset import TrainingSet
from offline_compress.data.synth_dataset import write_dataset
from offline_compress.models.registry import (
    MODELS,
    ModelSpec,
    load_checkpoint,
    load_spec,
    model_spec,
)
from offline_compress.recipe_parts import DataSource, SizePx
from offline_compress.training import progress, stopping
from offline_compress.training.advice import memory_advice
from offline_compress.training.learner import Learner
from offline_compress.training.log import LOG_FILE
from offline_compress.training.machine import choose_precision
from offline_compress.training.schedule import parameter_groups
from offline_compress.training.state import PREVIOUS_STATE_FILE, STATE_FILE
from offline_compress.training.stopping import Interrupted, StopRequest
from offline_compress.training.trainer import Trainer
from offline_compress.training.validation import Tick, score, validator


@pytest.fixture(autouse=True)
def _tiny_model() -> Iterator[None]:
    register()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    del MODELS["tiny"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "roads"
    write_dataset(root, 6, 192, 128, seed=3, workers=1)
    return root


class Scores:
    """Validation that says what it is told, one score after the other."""

    def __init__(self, *scores: float) -> None:
        self.left = list(scores)

    def __call__(self, _model: nn.Module, _spec: ModelSpec, _tick: Tick) -> dict[str, Any]:
        value = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return {
            "detection": {"recall": value, "map50": value},
            "drivable": {"miou": value},
            "lane": {"iou": value},
        }


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / LOG_FILE).read_text().splitlines()]


def weights(trainer: Trainer) -> str:
    return digest(trainer.learner.model.state_dict()) + digest(trainer.learner.average.state)


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


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    train_step = Learner.train_step

    def interrupted(learner: Learner, passes: Any) -> Any:
        if learner.step == step:
            signal.raise_signal(number)
        return train_step(learner, passes)

    monkeypatch.setattr(Learner, "train_step", interrupted)


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

    def stop(_model: nn.Module, _spec: ModelSpec, tick: Tick) -> dict[str, Any]:
        signal.raise_signal(signal.SIGTERM)
        tick(0, 1)
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
    def preload(_set: TrainingSet) -> Iterator[int]:
        signal.raise_signal(signal.SIGINT)
        yield 1
        raise AssertionError("the run goes on")

    monkeypatch.setattr(TrainingSet, "preload", preload)
    with pytest.raises(Interrupted):
        Trainer(tiny_recipe(dataset), tmp_path, Scores(0.5)).run()
    assert not (tmp_path / STATE_FILE).exists()


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


def test_a_recipe_may_change_the_shape_of_its_model(dataset: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe(dataset, arguments={"lane": 16}), tmp_path, Scores(0.5))
    assert trainer.learner.model.lane_head.tower[0].out_channels == 16  # type: ignore[union-attr,index]
    assert trainer.learner.model.drivable_head.tower[0].out_channels == 8  # type: ignore[union-attr,index]


def test_a_run_of_another_recipe_is_not_continued(dataset: Path, tmp_path: Path) -> None:
    Trainer(tiny_recipe(dataset, {"epochs": 1}), tmp_path, Scores(0.5)).run()
    with pytest.raises(UserError, match="different recipe"):
        Trainer(tiny_recipe(dataset, {"epochs": 3}), tmp_path, Scores(0.5))
    # How it is computed may change: this is what the advice for too little memory asks for.
    changed = tiny_recipe(dataset, {"epochs": 1, "accumulate": 2}, checkpoint_minutes=1)
    assert Trainer(changed, tmp_path, Scores(0.5)).over


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
    from offline_compress.training.samples import collate_batch

    yield collate_batch([trainer.data[number] for number in range(size)])


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
    rate = recipe.schedule.learning_rate * learner.plan.rate(0)
    # The first step of AdamW moves by the learning rate, whatever the gradient.
    assert moved[False] == pytest.approx(rate, rel=0.01)
    assert moved[True] == pytest.approx(rate / 10, rel=0.01)


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


def test_other_errors_are_not_taken_for_too_little_memory(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer = Trainer(tiny_recipe(dataset), tmp_path, Scores(0.5))
    monkeypatch.setattr(Learner, "train_step", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.run()


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


def test_validation_is_that_of_evaluate(dataset: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe(dataset), tmp_path)
    ticks: list[tuple[int, int]] = []
    metrics = trainer.validate(
        trainer.learner.averaged(), trainer.spec, lambda *done: ticks.append(done)
    )
    assert metrics["drivable"]["images"] == 6
    assert ticks == [(done, 6) for done in range(6)]
    assert 0 <= score(metrics) <= 1


def test_a_validation_set_without_labels_is_found_before_training(
    dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(dataset / "images", tmp_path / "bare" / "images")
    with pytest.raises(UserError, match=r"no labels to validate on: `mtc-compress check-data"):
        validator(DataSource(root=tmp_path / "bare", split="train"))


def test_a_validation_set_that_is_missing_is_found_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        validator(DataSource(root=tmp_path / "nowhere", split="val"))


def test_samples_depend_on_their_number_alone(dataset: Path) -> None:
    size = SizePx(height=64, width=96)
    source = DataSource(root=dataset, split="train")
    first, second = (TrainingSet([source], size, size, (0.8, 1.2), seed=5) for _ in range(2))
    list(second.preload())
    for number in (7, 3, 7):
        torch.testing.assert_close(first[number].image, second[number].image)


def test_missing_tasks_are_masked_not_negative(dataset: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "images").symlink_to(dataset / "images")
    size = SizePx(height=64, width=96)

    def first_sample() -> LabelledImage:
        source = DataSource(root=bare, split="train")
        return TrainingSet([source], size, size, (1.0, 1.0), seed=0)[0]

    with pytest.raises(UserError, match="no labels to train on: see mtc-compress check-data"):
        first_sample()
    (bare / "det").symlink_to(dataset / "det")
    sample = first_sample()
    assert sample.has_boxes
    assert (sample.lane == 255).all()
    assert (sample.drivable == 255).all()
    (bare / "det").unlink()
    (bare / "lane").symlink_to(dataset / "lane")
    sample = first_sample()
    assert not sample.has_boxes
    assert (sample.lane < 255).any()
    assert (sample.drivable == 255).all()


def test_the_score_is_over_the_labelled_tasks() -> None:
    lane = {"lane": {"iou": 0.4}}
    assert score(lane) == pytest.approx(0.4)
    nothing_found = {"detection": {"recall": None, "map50": None}, "drivable": {"miou": 0.8}}
    assert score({**lane, **nothing_found}) == pytest.approx(0.6)
    with pytest.raises(UserError, match="no labels"):
        score({})


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
    line = (
        rf"training 3/4 epoch 2/2 \| \d:\d\d:\d\d left \| {number} images/s \| {losses} \| best 0"
    )
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

"""Training in processes of its own: killed, launched twice, and told nonsense."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mtc_perception.util.errors import UserError
from offline_compress.data.batch import collate
from offline_compress.export import normalise
from offline_compress.losses.task_losses import task_losses
from offline_compress.models.registry import (
    WEIGHTS_FILE,
    ModelSpec,
    load_checkpoint,
    load_spec,
    model_spec,
    save_checkpoint,
)
from offline_compress.recipe.recipe import Recipe
from offline_compress.training import lineage
from offline_compress.training.average import MovingAverage
from offline_compress.training.distillation import load_teacher
from offline_compress.training.log import LOG_FILE
from offline_compress.training.samples import sample_numbers, samples_per_pass, training_set
from offline_compress.training.state import STATE_FILE
from offline_compress.training.step_schedule import StepSchedule, parameter_groups
from offline_compress.training.trainer import Trainer
from offline_compress.training.validation import validation_sets, validator
from support.checkout import ROOT
from support.clean_process import TIMEOUT_S, Program
from support.programs import mtc_compress
from support.small_disk import NO_MOUNT, mounted, on_small_disk
from support.tiny_networks import TINY
from support.tiny_training import LAUNCH, WEIGHTS_ENV, digest, tiny_recipe

pytestmark = pytest.mark.slow

PROGRAM = ROOT / "test" / "support" / "tiny_training.py"


def written(recipe: Recipe, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(json.loads(recipe.model_dump_json())))
    return path


def start(*arguments: object) -> Program:
    return Program([PROGRAM, "train", *arguments])


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(
        dataset, {"epochs": 3, "samples_per_epoch": 24, "accumulate": 2}, checkpoint_minutes=0
    )
    killed, state = tmp_path / "killed", tmp_path / "killed" / STATE_FILE
    command = ("--recipe", written(recipe, tmp_path), "--out", killed)
    program = start(*command)
    program.wait_until(state.exists)
    time.sleep(random.uniform(0, 0.3))  # wherever it is then
    program.send(signal.SIGKILL)
    assert program.finish()[0] == -signal.SIGKILL
    rest = start(*command)

    monkeypatch.setattr(lineage, "provenance", lambda: {"commit": "test"})
    Trainer(recipe, tmp_path / "whole").run()
    code, output, errors = rest.finish()
    assert code == 0, errors
    assert "resuming" in output
    for folder in ("best", "last"):
        first, second = (tmp_path / run / folder / WEIGHTS_FILE for run in ("whole", "killed"))
        assert first.read_bytes() == second.read_bytes()
    assert (killed / LOG_FILE).read_text() == (tmp_path / "whole" / LOG_FILE).read_text()
    for key in ("model", "average"):
        whole, resumed = (
            torch.load(tmp_path / run / STATE_FILE, weights_only=True)[key]
            for run in ("whole", "killed")
        )
        assert digest(whole) == digest(resumed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_every_process_saves_and_says_how_to_go_on(
    dataset: Path, tmp_path: Path, number: signal.Signals
) -> None:
    recipe = written(tiny_recipe(dataset, {"epochs": 5000}), tmp_path)
    program = start("--recipe", recipe, "--out", tmp_path / "run")
    log = tmp_path / "run" / LOG_FILE
    program.wait_until(lambda: log.exists() and log.read_text().count("\n") >= 2)
    program.send(number)
    code, output, errors = program.finish()
    assert code == 128 + number, errors
    assert "the same command resumes" in output
    assert not errors
    assert torch.load(tmp_path / "run" / STATE_FILE, weights_only=True)["step"] >= 4


def test_two_processes_take_the_step_that_their_batches_define(
    dataset: Path, tmp_path: Path
) -> None:
    """`accelerate launch`, gloo; the reference is one process and plain PyTorch."""
    lessons = {"teacher": wide_teacher(tmp_path / "teacher"), "foreground": 0.5, "masks": 0.5}
    recipe = tiny_recipe(
        dataset,
        {"epochs": 1, "samples_per_epoch": 8, "accumulate": 2, "batch": 8, "warmup_epochs": 0},
        precision="fp32",
        distillation=lessons,
    )
    digests = tmp_path / "digests"
    digests.mkdir()
    launcher = ["-m", "accelerate.commands.launch", *LAUNCH, "--num_processes", "2"]
    words = ("train", "--recipe", written(recipe, tmp_path), "--out", tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, *launcher, "--main_process_port", "0", PROGRAM, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {WEIGHTS_ENV: str(digests)},
    )
    expected, average, projections = reference_step(recipe)
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    assert (digests / "rank0").read_text() == (digests / "rank1").read_text()
    assert output.count("epoch 1/1") == output.count("done:") == 1

    state = torch.load(tmp_path / "run" / STATE_FILE, weights_only=True)
    for name, value in expected.items():
        torch.testing.assert_close(state["model"][name], value, rtol=1e-3, atol=2e-5, msg=name)
    for name, value in average.items():
        torch.testing.assert_close(state["average"][name], value, rtol=1e-3, atol=2e-5, msg=name)
    for name, value in projections.items():
        found = state["teaching"]["projections"][name]
        torch.testing.assert_close(found, value, rtol=1e-3, atol=2e-5, msg=name)

    (row,) = map(json.loads, (tmp_path / "run" / LOG_FILE).read_text().splitlines())
    alone = validated_alone(recipe, tmp_path / "run" / "last")
    assert row["metrics"].keys() == alone.keys()
    for task, figures in alone.items():
        assert row["metrics"][task] == pytest.approx(figures, abs=1e-9)


def wide_teacher(folder: Path) -> Path:
    """A checkpoint whose features all are wider than the miniature network's."""
    arguments = TINY | {"widths": [8, 16, 32, 32], "pyramid": 16}
    spec = ModelSpec("wide", "conv_multitask", arguments, ["vehicle"], 128, 192)
    save_checkpoint(folder, spec, spec.build())
    return folder


def reference_step(recipe: Recipe) -> tuple[dict[str, torch.Tensor], ...]:
    """Weights, averages and projections after one step of two processes with two passes each."""
    torch.manual_seed(recipe.seed)
    spec = model_spec("tiny", recipe.classes, recipe.input.height, recipe.input.width)
    networks = [spec.build().to(memory_format=torch.channels_last)]
    lessons = recipe.distillation
    assert lessons is not None
    teaching = load_teacher(lessons.teacher, lessons, spec)
    networks.append(spec.build().to(memory_format=torch.channels_last))
    networks[1].load_state_dict(networks[0].state_dict())
    average = MovingAverage(networks[0], recipe.schedule.ema_decay)
    data = training_set(recipe)
    for process, network in enumerate(networks):
        for half in range(2):
            numbers = [4 * half + process, 4 * half + process + 2]
            batch = collate([data[number] for number in numbers])
            image = normalise(batch.images)
            output = network(image)
            taught = teaching(image, output, batch.targets)
            loss = task_losses(output, batch.targets).total()
            loss = loss + taught["features"] + 0.5 * taught["foreground"] + taught["masks"]
            (loss / 4).backward()
    model = networks[0]
    for mine, other in zip(model.parameters(), networks[1].parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        mine.grad += other.grad
    projections = teaching.projections
    together = [*model.parameters(), *projections.parameters()]
    torch.nn.utils.clip_grad_norm_(together, 10.0)
    schedule = recipe.schedule
    decay = schedule.weight_decay
    groups = parameter_groups(model, schedule)
    groups.append({"params": list(projections.parameters()), "weight_decay": decay})
    rate = schedule.learning_rate * StepSchedule.of(schedule).rate(0)
    torch.optim.AdamW(groups, rate).step()
    for mine, other in zip(model.buffers(), networks[1].buffers(), strict=True):
        if mine.is_floating_point():
            mine.copy_((mine + other) / 2)
    average.update(model, 0)
    return model.state_dict(), average.state, projections.state_dict()


def validated_alone(recipe: Recipe, checkpoint: Path) -> dict[str, Any]:
    """Metrics of a checkpoint, validated by this process only."""
    validate = validator(validation_sets(recipe))
    return validate(load_checkpoint(checkpoint), load_spec(checkpoint), lambda *_: None)


@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5), st.integers(1, 5)
)
def test_a_pass_of_all_processes_holds_the_samples_of_one_pass_of_one(
    processes: int, accumulate: int, size: int, begin: int, more: int
) -> None:
    batch = size * processes * accumulate
    steps = begin + more
    each = [
        np.array(sample_numbers(begin, steps, batch, process, processes)).reshape(
            more, accumulate, samples_per_pass(batch, accumulate, processes)
        )
        for process in range(processes)
    ]
    together = np.sort(np.concatenate(each, -1), -1)
    one = np.array(sample_numbers(begin, steps, batch, 0, 1))
    assert (together == one.reshape(more, accumulate, -1)).all()


@pytest.mark.parametrize(
    ("batch", "processes", "accumulate", "nearest"),
    [(45, 4, 1, 44), (46, 4, 1, 48), (47, 4, 1, 48), (10, 2, 2, 12), (3, 8, 2, 16)],
)
def test_a_batch_that_cannot_be_split_is_refused(
    batch: int, processes: int, accumulate: int, nearest: int
) -> None:
    words = rf"batch {batch} cannot be split evenly.*multiple of .* is {nearest}$"
    with pytest.raises(UserError, match=words):
        samples_per_pass(batch, accumulate, processes)
    assert samples_per_pass(nearest, accumulate, processes) * accumulate * processes == nearest


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("sead", 1, "sead: no such field; did you mean seed?"), ("start_from", "", "does not load")],
)
def test_mistakes_are_one_line_and_exit_2(
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    key: str,
    value: Any,
    words: str,
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / WEIGHTS_FILE).write_bytes(b"\x10" * 100)
    content = json.loads(tiny_recipe(dataset).model_dump_json()) | {key: value or str(damaged)}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    assert mtc_compress("train", "--recipe", recipe, "--out", tmp_path / "run") == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(
    area="offline",
    row="/dev/shm is too small for the samples that training processes hand over",
    answer="Training ends with exit code 2 instead of waiting for samples that are lost.",
    diagnostics="One line: how to enlarge it, or what to make smaller; the same command resumes.",
)
def test_a_small_shared_memory_is_told(dataset: Path, tmp_path: Path) -> None:
    recipe = written(tiny_recipe(dataset), tmp_path)
    words = [PROGRAM, "train", "--recipe", recipe, "--out", tmp_path / "run"]
    code, _, errors = Program(words, around=_small_shared_memory).finish()
    if code == NO_MOUNT:
        pytest.skip("no file system may be mounted here")
    assert code == 2
    assert errors.startswith("error: /dev/shm is too small for the samples on their way")
    assert errors.count("\n") == 1


@contextlib.contextmanager
def _small_shared_memory() -> Iterator[None]:
    mounted(Path("/dev/shm"), "200k")
    yield


@pytest.mark.fault(
    area="disk",
    row="the disk is full while a training saves",
    answer="Training ends with exit code 2; the state before stays and nothing half-written.",
    diagnostics="One line: the file, that the disk is full, what to do.",
)
@pytest.mark.parametrize("free_kib", [8, 200, 600])
def test_a_full_disk_ends_a_training(dataset: Path, tmp_path: Path, free_kib: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    recipe = written(tiny_recipe(dataset, checkpoint_minutes=0), tmp_path)
    ended = on_small_disk(disk, free_kib, [PROGRAM, "train", "--recipe", recipe, "--out", "run"])
    assert ended.code == 2
    assert re.fullmatch(r"error: run\S*: No space left on device; free some .*\n", ended.errors)
    assert ended.parts() == []

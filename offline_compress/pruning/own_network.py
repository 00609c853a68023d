"""Compression of a network of any make, with the training and the figures of its owner."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.core.engine import Network
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import Progress
from offline_compress.channels.description import Description
from offline_compress.channels.groups import ChannelGroup
from offline_compress.channels.proof import proven_groups
from offline_compress.export import TimedGraph, exported, network_of
from offline_compress.importance.measure import require_batches
from offline_compress.importance.scores import ChannelScores
from offline_compress.models.pruned_file import load_pruned, save_pruned
from offline_compress.pruning.channel_choice import candidates
from offline_compress.pruning.iterative import RESULT_FOLDER, PruningRun
from offline_compress.pruning.own_subject import (
    WEIGHTS_FILE,
    Evaluate,
    OwnSubject,
    Recover,
    Step,
    call_recover,
)
from offline_compress.pruning.plan import Plan
from offline_compress.pruning.problem import TABLE_FILE, problem_of, with_latencies
from offline_compress.pruning.steps import lists
from offline_compress.recipe.compression import PruningRules
from offline_compress.training.feature_teacher import FeatureTeacher

SETTINGS_FILE = "settings.json"


@dataclass(frozen=True, slots=True)
class Compressed:
    """What came of a compression."""

    model: nn.Module
    """The pruned and recovered network, on the CPU and in eval mode."""
    file: Path
    """Its weights, for `load_pruned`."""
    plan: Plan
    """What each step kept, cost and lost. If the last one says `taken_back`, the guard ended the
    pruning there, and the network is that of the step before."""


def compress(
    model: nn.Module,
    description: Description,
    batches: Sequence[Any],
    rules: PruningRules,
    recover: Recover,
    evaluate: Evaluate,
    out: Path,
    guard: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Compressed:
    """Prune a trained network to a budget, in steps: score, choose, cut, recover, judge.

    Args:
        model: stays as it is; computed on the device that Accelerate finds.
        batches: for scoring, decoded or read when asked for; `description` says what they are.
        rules: budget, criterion, steps and limits. Costs are those of `description.example`;
            latency is measured on the engine that the rules name.
        recover: trains after every step; it has a folder, in which it may keep how far it is.
        evaluate: judges the network before the first step, and after every cut and recovery.
        out: folder of the run. The same call goes on there if it was stopped.
        guard: figure -> what a step may lose of it; if it loses more, it is taken back and tried
            once more with twice as many channels locked.
        seed: of the criterion `random`.

    Raises UserError, in one line, for a network that cannot be followed, a budget that cannot be
    reached, callbacks that raise or yield what is no figure, scores that are not finite, and a
    folder that holds something else. What was reached before stays in `out`.
    """
    _require_types(model, description, out, recover=recover, evaluate=evaluate)
    _require_rules(description, rules, guard or {})
    require_batches(batches)
    timed = rules.budget.latency is not None or rules.cost == "latency"
    if timed and not _is_image(description.example):
        raise UserError("a budget of latency needs an `example` of one image [1, 3, H, W]")
    unpruned = deepcopy(model).cpu().eval()
    sha256 = _weights_sha256(unpruned)
    problem = problem_of(
        rules,
        description,
        proven_groups(unpruned, description),
        unpruned,
        unpruned,
        description.example,
        type(model).__name__,
        sha256,
    )
    out.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.is_main_process:
        settings = {
            "rules": json.loads(rules.model_dump_json()),
            "guard": dict(guard or {}),
            "tasks": list(description.tasks),
            "taps": list(description.taps),
            "opaque": list(description.opaque),
            "protect": list(description.protect),
            "blocks": list(description.blocks),
            "seed": seed,
        }
        _keep_settings(out / SETTINGS_FILE, settings)
    accelerator.wait_for_everyone()
    if timed:
        deploy = partial(deployed_for_timing, description)
        table, main = out / TABLE_FILE, accelerator.is_main_process
        with accelerator.main_process_first(), Progress(shown=main, alone=True) as progress:
            problem = with_latencies(problem, unpruned, deploy, table, main, progress.count)
    device = accelerator.device
    subject = OwnSubject(unpruned, description, rules.steps, recover, evaluate, guard or {}, device)
    plan = PruningRun(problem, subject, batches, out, accelerator, seed).run()
    result = out / RESULT_FOLDER
    return Compressed(subject.load(result), result / WEIGHTS_FILE, plan)


def control(
    model: nn.Module, description: Description, steps: int, recover: Recover, out: Path
) -> nn.Module:
    """The unpruned network after the same recoveries: what a pruned one is fairly compared with.

    Figures of a network that had more training than the one before it say little of the pruning.

    Args:
        model: the network that `compress` was given; stays as it is.
        description: that of `compress`, and so are `steps` and `recover`.
        out: a folder of its own. The same call goes on there if it was stopped.

    Returns the network on the CPU and in eval mode. Raises UserError as `compress`.
    """
    _require_types(model, description, out, recover=recover)
    unpruned = deepcopy(model).cpu().eval()
    network = deepcopy(unpruned)
    out.mkdir(parents=True, exist_ok=True)
    _keep_settings(out / SETTINGS_FILE, {"steps": steps, "network": _weights_sha256(unpruned)})
    device = Accelerator(cpu=not torch.cuda.is_available()).device
    before = None
    for number in range(1, steps + 1):
        step = Step(number, number == steps, out / f"step_{number}")
        file = out / f"step_{number}.safetensors"
        if not file.exists():
            network.to(device)
            with FeatureTeacher(unpruned, network, description.taps, {}) as teacher:
                call_recover(recover, network, teacher, step, before)
            save_pruned(file, network)
        load_pruned(file, network.cpu())
        before = file
    return network.eval()


def choose(
    model: nn.Module,
    groups: list[ChannelGroup],
    scores: ChannelScores,
    description: Description,
    rules: PruningRules,
    seed: int = 0,
) -> dict[str, list[int]]:
    """Group -> its channels that remain, so that the budget of `rules` is kept at once.

    Raises UserError for a budget that cannot be reached.
    """
    name = type(model).__name__
    network = deepcopy(model).cpu()
    problem = problem_of(
        rules, description, groups, network, network, description.example, name, ""
    )
    found = candidates(problem, network, groups, scores, rules.steps, seed, rules.locked)
    return lists(found.select(problem.budget))


def _require_types(
    model: nn.Module, description: Description, out: Path, **functions: object
) -> None:
    """Raise UserError for what is given in the place of something else."""
    for name, value, kind in (
        ("model", model, nn.Module),
        ("description", description, Description),
        ("out", out, Path),
    ):
        if not isinstance(value, kind):
            raise UserError(f"{name} is a {type(value).__name__}, not a {kind.__name__}")
    for name, function in functions.items():
        if not callable(function):
            raise UserError(f"{name} is a {type(function).__name__}, not a function")
    if out.exists() and not out.is_dir():
        raise UserError(f"out, {out}, is no folder; give another")


def _require_rules(
    description: Description, rules: PruningRules, guard: Mapping[str, float]
) -> None:
    """The same for what a pruning goes by."""
    if not isinstance(rules, PruningRules):
        raise UserError(f"rules is a {type(rules).__name__}, not PruningRules(...)")
    if not description.tasks:
        raise UserError("description.tasks is empty; give at least one task with its loss")
    if not isinstance(guard, Mapping):
        raise UserError("guard is no mapping of figures to what a step may lose of them")
    for name, allowed in guard.items():
        if not isinstance(allowed, (int, float)) or not allowed >= 0:  # nor NaN
            raise UserError(f"guard[{name!r}] is {allowed!r}, not what a step may lose of it")


def _is_image(example: tuple[Any, ...]) -> bool:
    image = example[0]
    return len(example) == 1 and isinstance(image, torch.Tensor) and image.shape[:2] == (1, 3)


def deployed_for_timing(description: Description, network: nn.Module) -> Network:
    """A network as engines load it, for images of the size of the example; what it returns then
    means nothing."""
    height, width = description.example[0].shape[2:]

    def answers(output: Any) -> list[torch.Tensor]:
        return description.answered(output)

    return network_of(exported(TimedGraph(network, answers), height, width), "fp32")


def _weights_sha256(network: nn.Module) -> str:
    parts = [
        name.encode() + tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in network.state_dict().items()
        if tensor.numel()
    ]
    return sha256_hex(b"".join(parts))


def _keep_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise UserError if the folder holds something made with other settings."""
    if path.exists():
        try:
            former = json.loads(path.read_text())
        except ValueError:
            raise UserError(f"{path} is damaged; delete {path.parent}") from None
        if former != settings:
            names = [*settings, *(former.keys() - settings.keys())]
            changed = [name for name in names if former.get(name) != settings.get(name)]
            raise UserError(
                f"{path.parent} holds something made with other {' and '.join(changed)}; give "
                "another folder, or delete it"
            )
    elif any(path.parent.iterdir()):
        raise UserError(f"{path.parent} holds something else; give another folder")
    else:
        write_text_atomic(path, json.dumps(settings, indent=1) + "\n")

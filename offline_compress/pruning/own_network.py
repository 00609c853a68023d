"""Compression of a network of any make, with the training and the figures of its owner."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import Count
from offline_compress.channels.description import Description, Loss, tensors_in
from offline_compress.channels.groups import ChannelGroup
from offline_compress.channels.proof import proven_groups
from offline_compress.channels.surgery import Kept, remaining_taps
from offline_compress.importance.scores import ChannelScores
from offline_compress.models.pruned_file import load_pruned, save_pruned
from offline_compress.pruning.channel_choice import candidates
from offline_compress.pruning.iterative import RESULT_FOLDER, PruningRun
from offline_compress.pruning.plan import Plan
from offline_compress.pruning.problem import problem_of
from offline_compress.pruning.steps import lists
from offline_compress.recipe.compression import PruningRules
from offline_compress.training.feature_teacher import FeatureTeacher

WEIGHTS_FILE, TAPS_FILE, SETTINGS_FILE = "model.safetensors", "taps.json", "settings.json"

Recover = Callable[[nn.Module, FeatureTeacher, int], None]
"""(pruned network, teacher, step 1..) -> trains the network, in place and as it likes."""
Evaluate = Callable[[nn.Module], Mapping[str, float]]
"""Network -> figures by name, of which more is better."""


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
        rules: budget, criterion, steps and limits. Costs are those of `description.example`.
        recover: trains after every step.
        evaluate: judges the network before the first step, and after every cut and recovery.
        out: folder of the run. The same call goes on there if it was stopped; a step that
            was being recovered is recovered anew.
        guard: figure -> what a step may lose of it; if it loses more, it is taken back and tried
            once more with twice as many channels locked.
        seed: of the criterion `random`.

    Raises UserError, in one line, for a network that cannot be followed, a budget that cannot be
    reached, callbacks that raise or yield what is no figure, scores that are not finite, and a
    folder that holds something else. What was reached before stays in `out`.
    """
    if rules.budget.latency is not None or rules.cost == "latency":
        raise UserError("networks of other makes have a budget of parameters or macs, not latency")
    unpruned = deepcopy(model).cpu().eval()
    sha256 = _weights_sha256(unpruned)
    tasks = {task: partial(_loss, task, loss) for task, loss in description.tasks.items()}
    guarded = replace(description, tasks=tasks)
    problem = problem_of(
        rules,
        guarded,
        proven_groups(unpruned, guarded),
        unpruned,
        unpruned,
        guarded.example,
        type(model).__name__,
        sha256,
    )
    out.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.is_main_process:
        _keep_settings(out / SETTINGS_FILE, rules, guard or {}, tuple(description.tasks), seed)
    accelerator.wait_for_everyone()
    device = accelerator.device
    subject = OwnSubject(unpruned, guarded, recover, evaluate, guard or {}, device)
    plan = PruningRun(problem, subject, batches, out, accelerator, seed).run()
    result = out / RESULT_FOLDER
    return Compressed(subject.load(result), result / WEIGHTS_FILE, plan)


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


class OwnSubject:
    """A network of any make as what is pruned: its owner recovers and judges it."""

    def __init__(
        self,
        unpruned: nn.Module,
        description: Description,
        recover: Recover,
        evaluate: Evaluate,
        guard: Mapping[str, float],
        device: torch.device,
    ) -> None:
        """`unpruned` is on the CPU; callbacks get networks on `device`."""
        self._unpruned, self._description = unpruned, description
        self._recover, self._evaluate = recover, evaluate
        self._guard, self._device = dict(guard), device
        self._taps: dict[str, list[int]] = {}

    def load(self, folder: Path) -> nn.Module:
        network, self._taps = self._read(folder)
        return network

    def _read(self, folder: Path) -> tuple[nn.Module, dict[str, list[int]]]:
        network = load_pruned(folder / WEIGHTS_FILE, deepcopy(self._unpruned))
        return network.eval(), json.loads((folder / TAPS_FILE).read_text())

    def save(
        self, folder: Path, model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept, told: str
    ) -> None:
        self._write(folder, model, remaining_taps(groups, kept, self._taps))

    def _write(self, folder: Path, model: nn.Module, taps: Mapping[str, list[int]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(folder / TAPS_FILE, json.dumps(taps) + "\n")
        save_pruned(folder / WEIGHTS_FILE, model)

    @torch.no_grad()
    def check(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """Its answers have the shapes that they had, and are finite."""
        found, wanted = (
            list(
                tensors_in(self._description.answers(network(*deepcopy(self._description.example))))
            )
            for network in (model, self._unpruned)
        )
        if [a.shape for a in found] != [a.shape for a in wanted]:
            raise UserError("the pruned network's answers have other shapes than before")
        if not all(answer.isfinite().all() for answer in found):
            raise UserError("the pruned network's answers are not finite; prune less in each step")

    def recovers(self, step: int) -> bool:
        return True

    def recover(self, step: int, cut: Path, out: Path) -> None:
        student, taps = self._read(cut)
        student.to(self._device).train()
        with (
            FeatureTeacher(self._unpruned, student, self._description.taps, taps) as teacher,
            _calling(f"recover, in step {step}", cut),
        ):
            self._recover(student, teacher, step)
        if not all(value.isfinite().all() for value in student.state_dict().values()):
            raise UserError(
                f"recover, in step {step}, left weights that are not finite; lower its learning "
                f"rate and call again: the network before it is in {cut}"
            )
        self._write(out / RESULT_FOLDER, student, taps)

    def judge(self, folder: Path | None, count: Count) -> dict[str, float]:
        count(0, None)
        network = deepcopy(self._unpruned) if folder is None else self._read(folder)[0]
        with _calling("evaluate", folder):
            found = self._evaluate(network.to(self._device).eval())
        try:
            figures = {str(name): float(value) for name, value in dict(found).items()}
        except (TypeError, ValueError):
            raise UserError(f"evaluate returned {found!r:.80}, not figures by name") from None
        if unknown := sorted(self._guard.keys() - figures.keys()):
            raise UserError(f"guard names {unknown[0]!r}; evaluate yields {', '.join(figures)}")
        return figures

    def broken(self, before: Mapping[str, float], after: Mapping[str, float]) -> str:
        return "; ".join(
            f"{name} lost {before[name] - after[name]:.4g}, guard allows {allowed:g}"
            for name, allowed in self._guard.items()
            if not before[name] - after[name] <= allowed  # nor NaN
        )

    def titled(
        self, before: Mapping[str, float], after: Mapping[str, float]
    ) -> list[tuple[str, float, float]]:
        return [(name, before[name], value) for name, value in after.items() if name in before]


@contextmanager
def _calling(what: str, before: Path | None) -> Iterator[None]:
    """One line of what a callback raises; its traceback stays behind it."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error) or "no reason given").splitlines()[0]
        place = f"; the network before it is in {before}" if before else ""
        raise UserError(
            f"{what}, raised {type(error).__name__}: {reason}{place}, and the same call goes on"
        ) from error


def _loss(task: str, loss: Loss, output: Any, batch: Any) -> torch.Tensor | None:
    with _calling(f"the loss of task {task}", None):
        return loss(output, batch)


def _weights_sha256(network: nn.Module) -> str:
    parts = [
        name.encode() + tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in network.state_dict().items()
        if tensor.numel()
    ]
    return sha256_hex(b"".join(parts))


def _keep_settings(
    path: Path,
    rules: PruningRules,
    guard: Mapping[str, float],
    tasks: Sequence[str],
    seed: int,
) -> None:
    """Raise UserError if the folder holds a compression by other rules."""
    settings = {
        "rules": json.loads(rules.model_dump_json()),
        "guard": dict(guard),
        "tasks": list(tasks),
        "seed": seed,
    }
    if path.exists():
        try:
            former = json.loads(path.read_text())
        except ValueError:
            raise UserError(f"{path} is damaged; delete {path.parent}") from None
        if former != settings:
            changed = [name for name in settings if former.get(name) != settings[name]]
            raise UserError(
                f"{path.parent} holds a compression with other {' and '.join(changed)}; give "
                "another folder, or delete it"
            )
    elif any(path.parent.iterdir()):
        raise UserError(f"{path.parent} holds something else; give another folder")
    else:
        write_text_atomic(path, json.dumps(settings, indent=1) + "\n")

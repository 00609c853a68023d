"""A network of any make as what is pruned: its owner recovers and judges it."""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import Count
from offline_compress.channels.description import Description, calling
from offline_compress.channels.groups import ChannelGroup
from offline_compress.channels.surgery import Kept, remaining_taps
from offline_compress.models.pruned_file import load_pruned, save_pruned
from offline_compress.models.shapes import difference
from offline_compress.pruning.iterative import RESULT_FOLDER
from offline_compress.training.feature_teacher import FeatureTeacher

WEIGHTS_FILE, TAPS_FILE = "model.safetensors", "taps.json"
STATE_FOLDER = "state"


@dataclass(frozen=True, slots=True)
class Step:
    """A recovery, as its callback sees it."""

    number: int
    """1, 2, ..."""
    last: bool
    """Whether no cut follows."""
    folder: Path
    """The recovery's own: what is kept there is there again when the same call goes on."""


Recover = Callable[[nn.Module, FeatureTeacher, Step], None]
"""(pruned network, teacher, step) -> trains the network, in place and as it likes."""
Evaluate = Callable[[nn.Module], Mapping[str, float]]
"""Network -> figures by name, of which more is better."""


class OwnSubject:
    """A network of any make as what is pruned: its owner recovers and judges it."""

    def __init__(
        self,
        unpruned: nn.Module,
        description: Description,
        steps: int,
        recover: Recover,
        evaluate: Evaluate,
        guard: Mapping[str, float],
        device: torch.device,
    ) -> None:
        """`unpruned` is on the CPU; callbacks get networks on `device`."""
        self._unpruned, self._description, self._steps = unpruned, description, steps
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
            self._description.answered(network(*deepcopy(self._description.example)))
            for network in (model, self._unpruned)
        )
        if [a.shape for a in found] != [a.shape for a in wanted]:
            raise UserError("the pruned network's answers have other shapes than before")
        if not all(answer.isfinite().all() for answer in found):
            raise UserError("the pruned network's answers are not finite; prune less in each step")

    def recovers(self, step: int) -> bool:
        return True

    def recover(self, step: int, cut: Path, out: Path) -> None:
        result = out / RESULT_FOLDER
        if (result / WEIGHTS_FILE).exists():
            return
        student, taps = self._read(cut)
        student.to(self._device)
        with FeatureTeacher(self._unpruned, student, self._description.taps, taps) as teacher:
            recovered = Step(step, step == self._steps, out / STATE_FOLDER)
            call_recover(self._recover, student, teacher, recovered, cut)
        self._write(result, student, taps)

    def judge(self, folder: Path | None, count: Count) -> dict[str, float]:
        count(0, None)
        network = deepcopy(self._unpruned) if folder is None else self._read(folder)[0]
        with calling("evaluate", _goes_on(folder)):
            found = self._evaluate(network.to(self._device).eval())
        try:
            figures = {str(name): float(value) for name, value in dict(found).items()}
        except (TypeError, ValueError):
            raise UserError(f"evaluate returned {found!r:.80}, not figures by name") from None
        if unknown := sorted(self._guard.keys() - figures.keys()):
            raise UserError(f"guard names {unknown[0]!r}; evaluate yields {', '.join(figures)}")
        if wrong := [name for name, value in figures.items() if not math.isfinite(value)]:
            raise UserError(
                f"evaluate returned {figures[wrong[0]]} as {wrong[0]!r}; let it return a low one "
                "for what cannot be measured" + _goes_on(folder)
            )
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


def call_recover(
    recover: Recover, student: nn.Module, teacher: FeatureTeacher, step: Step, before: Path | None
) -> None:
    """Let the owner train `student`, which lies in `before`.

    Raises UserError, in one line, for what the callback raises, for weights that are not finite and
    for tensors of other names or shapes than before.
    """
    step.folder.mkdir(parents=True, exist_ok=True)
    what = f"recover, in step {step.number}"
    given = student.state_dict()
    with calling(what, _goes_on(before)):
        recover(student.train(), teacher, step)
    found = student.state_dict()
    reason = ""
    if changed := difference(given, found):
        reason = f"left another network: {changed}; let it train the weights that are there"
    elif not all(value.isfinite().all() for value in found.values()):
        reason = "left weights that are not finite; lower its learning rate"
    if reason:
        shutil.rmtree(step.folder)  # or the same call would go on from there
        raise UserError(f"{what}, {reason} and call again" + _where(before))


def _goes_on(network: Path | None) -> str:
    return "; the same call goes on" + _where(network)


def _where(network: Path | None) -> str:
    return f": the network that it was given is in {network}" if network else ""

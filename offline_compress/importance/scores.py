"""What a scoring pass finds out about every channel, and its file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as serialised

from mtc_perception.core.tasks import TASKS
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_bytes_atomic

_COUNTS = "counts"


def pairs(tasks: Sequence[str]) -> list[tuple[int, int]]:
    """All pairs of tasks, by their places."""
    return list(combinations(range(len(tasks)), 2))


def pair_names(tasks: Sequence[str]) -> tuple[str, ...]:
    """The same in words."""
    return tuple(f"{tasks[a]}/{tasks[b]}" for a, b in pairs(tasks))


@dataclass(frozen=True, slots=True, eq=False)
class ChannelScores:
    """Statistics of the prunable groups' channels over calibration batches, for T tasks.

    s[t] is, in one batch, the derivative of task t's loss with respect to a factor of 1 on all
    that a channel passes on: minus the first-order change of the loss if the channel is removed.
    """

    taylor: dict[str, NDArray[np.float64]]
    """Group -> [T, C] mean over the batches labelled for task t of s[t]^2."""
    joint: dict[str, NDArray[np.float64]]
    """Group -> [C] mean over all batches of (sum over t of s[t])^2."""
    conflict: dict[str, NDArray[np.float64]]
    """Group -> [P, C] mean over the batches labelled for both tasks of a pair (`pairs`) of
    max(0, -cos) of their losses' gradients with respect to the filters that make the channel."""
    images: int
    batches: int
    labelled: tuple[int, ...]
    """[T] batches labelled for each task."""
    together: tuple[int, ...]
    """[P] batches labelled for both tasks of each pair."""
    tasks: tuple[str, ...] = TASKS
    """[T] names."""


def save(path: Path, scores: ChannelScores) -> None:
    """Write scores as one safetensors file, atomically."""
    tensors = {
        f"{kind}/{group}": np.ascontiguousarray(values)
        for kind in ("taylor", "joint", "conflict")
        for group, values in getattr(scores, kind).items()
    }
    counts = {
        name: getattr(scores, name)
        for name in ("images", "batches", "labelled", "together", "tasks")
    }
    write_bytes_atomic(path, serialised(tensors, {_COUNTS: json.dumps(counts)}))


def load(path: Path) -> ChannelScores:
    """Read scores. Raises UserError for a file that holds none."""
    try:
        with safe_open(path, "np") as opened:
            counts = json.loads((opened.metadata() or {})[_COUNTS])
        tensors = load_file(path)
        kinds: dict[str, dict[str, NDArray[np.float64]]] = {}
        for key, values in tensors.items():
            kind, group = key.split("/", 1)
            kinds.setdefault(kind, {})[group] = values
        return ChannelScores(
            taylor=kinds["taylor"],
            joint=kinds["joint"],
            conflict=kinds["conflict"],
            images=counts["images"],
            batches=counts["batches"],
            labelled=tuple(counts["labelled"]),
            together=tuple(counts["together"]),
            tasks=tuple(counts.get("tasks", TASKS)),  # files before any tasks were possible
        )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} holds no channel scores: {error}") from None


def conflict_summary(scores: ChannelScores) -> dict[str, Mapping[str, float | None]]:
    """Group -> pair of tasks -> mean conflict over the group's channels, in 0..1.

    None for a pair of tasks that no batch was labelled for together.
    """
    return {
        group: {
            name: float(values[pair].mean()) if scores.together[pair] else None
            for pair, name in enumerate(pair_names(scores.tasks))
        }
        for group, values in scores.conflict.items()
    }

"""Labels of channels: which channels of which layers are the same ones, and which must stay."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Side = Literal["out", "in", "tap"]
Slot = tuple[str, Side]
"""A layer, or tap, and its side. Grouped convolutions, norms, lone parameters have `out` only."""


@dataclass(slots=True)
class Labels:
    """Labels are integers above 0; 0 is what belongs to no channel.

    All that is found out is collected, and joined in the end: labels of one class go together.
    """

    slots: dict[Slot, torch.Tensor] = field(default_factory=dict)
    """[C] labels of the channels of a layer's side, in the order in which layers first ran."""
    _count: int = 1
    _pairs: list[torch.Tensor] = field(default_factory=list)
    _kept: list[tuple[torch.Tensor, str]] = field(default_factory=list)

    def slot(self, name: str, side: Side, width: int) -> torch.Tensor:
        """[width] labels of a layer's side, the same ones whenever it runs."""
        if (name, side) not in self.slots:
            self.slots[name, side] = torch.arange(self._count, self._count + width)
            self._count += width
        return self.slots[name, side]

    def unite(self, one: torch.Tensor, other: torch.Tensor) -> None:
        """The labels of both go together, element by element, where neither is 0."""
        one, other = torch.broadcast_tensors(core(one), core(other))
        both = torch.stack((one.reshape(-1), other.reshape(-1)), 1)
        self._pairs.append(both[(both > 0).all(1)].unique(dim=0))

    def column(self, labels: torch.Tensor, d: int, where: str) -> torch.Tensor:
        """[C] labels along a dimension. What has another label elsewhere along it is read by the
        same weights there: it goes together with the first, or stays, where that has none."""
        width = labels.shape[d]
        rows = core(labels).movedim(d, 0)
        rows = rows.reshape(len(rows), -1).expand(width, -1)
        first = rows[:, :1]
        if set(varies(labels)) - {d % labels.ndim}:
            self.unite(first, rows)
            mixed = (rows > 0).any(1) & (rows == 0).any(1)
            self.keep(rows[mixed], f"read at places without channels, too, in {where}")
        return first[:, 0]

    def keep(self, labels: torch.Tensor, reason: str) -> None:
        """These channels stay."""
        self._kept.append((core(labels)[core(labels) > 0].unique(), reason))

    def classes(self) -> tuple[NDArray[np.int64], dict[int, str]]:
        """Label -> its class, and class -> why it stays, the first reason of several."""
        pairs = torch.cat(self._pairs).numpy() if self._pairs else np.zeros((0, 2), np.int64)
        ones = np.ones(len(pairs), bool)
        graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), (self._count, self._count))
        found = connected_components(graph, directed=False)[1].astype(np.int64)
        kept: dict[int, str] = {}
        for labels, reason in self._kept:
            for one in np.unique(found[labels.numpy()]).tolist():
                kept.setdefault(one, reason)
        return found, kept


def varies(labels: torch.Tensor) -> list[int]:
    """Dimensions along which `labels`, as `compact` leaves them, are not all the same."""
    return [d for d, size in enumerate(labels.shape) if size > 1 and labels.stride(d)]


def core(labels: torch.Tensor) -> torch.Tensor:
    """Labels as `compact` leaves them, with size 1 where they do not vary: all that there are."""
    for d in range(labels.ndim):
        if labels.shape[d] > 1 and not labels.stride(d):
            labels = labels.narrow(d, 0, 1)
    return labels


def has_labels(labels: torch.Tensor) -> bool:
    """Whether any is above 0."""
    return bool((core(labels) > 0).any())


def compact(labels: torch.Tensor) -> torch.Tensor:
    """The same labels, expanded along every dimension along which they do not vary."""
    shape = labels.shape
    for d in range(labels.ndim):
        if labels.shape[d] > 1:
            first = labels.narrow(d, 0, 1)
            if not labels.stride(d) or bool((labels == first).all()):
                labels = first
    return labels.expand(shape)

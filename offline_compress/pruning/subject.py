"""What is pruned, as the course of a pruning sees it: kept in folders, recovered, judged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import nn

from mtc_perception.util.progress import Count
from offline_compress.channels.groups import ChannelGroup
from offline_compress.channels.surgery import Kept


class Subject(Protocol):
    """A network on its way to a smaller one. All processes call its methods together, but `save`
    and `check`, which the first one calls alone."""

    def load(self, folder: Path) -> nn.Module:
        """The network in a folder that `save` or `recover` has filled, on the CPU; the one that
        further cuts begin with."""

    def save(
        self, folder: Path, model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept, told: str
    ) -> None:
        """Keep a network in a folder: the last one that was loaded (or the unpruned one), of whose
        `groups` only `kept` remains, and what was done to it, in words; nothing, if that is ''."""

    def check(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """Raise UserError for a cut network, on the CPU, that is not what it should be."""

    def recovers(self, step: int) -> bool:
        """Whether the network recovers after a step."""

    def recover(self, step: int, cut: Path, out: Path) -> None:
        """Train what lies in folder `cut`, in folder `out`, and leave the result in `out`/best.
        Goes on there if it was stopped."""

    def judge(self, folder: Path | None, count: Count) -> dict[str, float]:
        """Figures of the network in a folder, by name; None: of the unpruned one."""

    def broken(self, before: Mapping[str, float], after: Mapping[str, float]) -> str:
        """Which figures have lost more than is allowed, in words, or nothing."""

    def titled(
        self, before: Mapping[str, float], after: Mapping[str, float]
    ) -> list[tuple[str, float, float]]:
        """Title, before and after of every figure, as a reader likes it."""

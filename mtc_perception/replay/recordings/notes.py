"""Counted warnings: what was wrong with a recording without stopping its evaluation."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Note:
    """One kind of trouble."""

    kind: str
    count: int
    first: str
    """Where it was met first, and what it was."""

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.kind}{times}: {self.first}"


class Notes:
    """Collects notes: one per kind, however often it happens."""

    def __init__(self, notes: Iterable[Note] = ()) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}
        for note in notes:
            self.add(note.kind, note.first, note.count)

    def add(self, kind: str, what: str, count: int = 1) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + count
        self._first.setdefault(kind, what)

    def all(self) -> list[Note]:
        """In the order in which the kinds were met first."""
        return [Note(kind, count, self._first[kind]) for kind, count in self._counts.items()]

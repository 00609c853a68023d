"""Targets of fuzzing with every fault that it is there to find."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.fuzz.targets import Target, Try


def bad_targets() -> dict[str, Target]:
    """By name: what each does with every input but its seed."""
    leak: list[bytes] = []

    def raises() -> None:
        raise KeyError("missing")

    faults: dict[str, Callable[[], object]] = {
        "raises": raises,
        "crashes": os.abort,
        "hangs": lambda: time.sleep(60),
        "leaks": lambda: leak.append(os.urandom(2**20)),
        "is right": lambda: None,
    }
    return {name: _target(name, fault) for name, fault in faults.items()}


def _target(name: str, fault: Callable[[], object]) -> Target:
    @contextmanager
    def trying(folder: Path) -> Iterator[Try]:
        tried: list[bytes] = []

        def once(data: bytes) -> bool:
            tried.append(data)
            if len(tried) > 1:  # a seed comes first
                fault()
            return True

        yield once

    return Target(name, lambda folder: [b"whole"], trying, hang_s=0.5)

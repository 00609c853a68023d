"""What every measurement shares: timing an engine and writing a result."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from mtc_perception.core.bundle import Bundle, sha256_hex
from mtc_perception.core.engine import Engine
from mtc_perception.core.self_test import self_test_frame
from mtc_perception.core.timing import percentiles
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.interrupts import handle_interrupts
from mtc_perception.util.progress import Progress
from mtc_perception.util.provenance import provenance

Item = TypeVar("Item")


def time_engine(engine: Engine, runs: int) -> list[float]:
    """Milliseconds of each of `runs` inferences, one after the other, nothing around them."""
    _, height, width, _ = engine.input.shape
    engine.input[0] = self_test_frame(height, width)
    times_ms = []
    for _ in range(runs):
        begin = time.perf_counter()
        engine.start()
        engine.wait()
        times_ms.append((time.perf_counter() - begin) * 1e3)
    return times_ms


def brief(times_ms: list[float]) -> dict[str, float]:
    """Percentiles rounded to what can be told apart."""
    return {name: round(value, 3) for name, value in percentiles(times_ms).items()}


def ends_in_one_line(main: Callable[..., int]) -> Callable[..., int]:
    """A measurement's `main`, of which a mistake of the user's is a line and exit code 2, and
    Ctrl-C or SIGTERM a line and 130."""

    @wraps(main)
    def ending(arguments: Sequence[str] | None = None) -> int:
        if main.__module__ == "__main__":  # not in a test, whose signals are its own
            handle_interrupts()
        try:
            return main(arguments)
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return ending


def tracked(items: Iterable[Item], what: str, console: Console) -> Iterator[Item]:
    """The items, with a bar of how many are done."""
    with Progress(console=console) as progress:
        yield from progress.track(items, what)


def identity(bundle: Bundle) -> dict[str, str]:
    """Which bundle a result is of: its name, and one sha256 over those of its networks."""
    of_variants = sorted(one.sha256 for one in bundle.manifest.variants.values())
    return {
        "bundle": bundle.path.name,
        "bundle_sha256": sha256_hex(" ".join(of_variants).encode()),
    }


def write_result(folder: Path, name: str, content: dict[str, Any]) -> Path:
    """Write `content` with machine, versions, commit and command to `<folder>/<name>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content | provenance(), indent=2) + "\n"
    return write_text_atomic(folder / f"{name}.json", text)

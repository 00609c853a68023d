"""What `mtc-replay evaluate` costs: beside the bare network, in memory, live, in two workers."""

import json
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.common import identity, write_result
from bench.replay_bags import read_clip
from bench.replay_parts import CLIP_IMAGES, PARTS, Part, PartSetup
from mtc_perception.core.bundle import Bundle
from mtc_perception.util.provenance import provenance

_WORDS = {
    "throughput": "lock-step beside the bare network",
    "memory": "a long recording beside a short one",
    "live": "as fast as a camera",
    "workers": "two workers beside one",
}


def bench_replay(
    bundle: Bundle,
    drive: Path,
    results: Path,
    minute_s: float,
    only: Collection[str],
    console: Console,
) -> bool:
    """Measure the parts `only` (none: all), print, and write `replay.json` after each of them.

    Parts that the file has of this machine stay where they are not measured again. Returns whether
    every target was met. Raises UserError.
    """
    clip = read_clip(drive, CLIP_IMAGES)
    met = True
    for name, measure in PARTS.items():
        if only and name not in only:
            continue
        console.print(f"replay, {name}: {_WORDS[name]}", highlight=False)
        begin = time.perf_counter()
        with _scratch(drive.parent) as folder, console.status(f"replay, {name}"):
            part = measure(PartSetup(bundle.path, clip, minute_s, folder))
        for target, one in part["targets"].items():
            word = "PASS" if one["met"] else "MISS"
            line = f"{word}  {target}: {one['words']}, target {one['target']}"
            console.print(line, soft_wrap=True, highlight=False)
            met = met and one["met"]
        content = with_part(_before(results), name, part, identity(bundle))
        path = write_result(results, "replay", content)
        took_s = time.perf_counter() - begin
        console.print(f"wrote {path} ({took_s:.0f} s)\n", highlight=False)
    return met


def with_part(
    before: Mapping[str, Any], name: str, part: Part, bundle: Mapping[str, str]
) -> dict[str, Any]:
    """The content of `replay.json` with this part, and what `before` has of the others.

    Of another machine or bundle nothing is kept: those figures cannot stand side by side.
    """
    now = provenance()
    wanted: dict[str, Any] = {**bundle, "machine": now["machine"]}
    alike = all(before.get(key) == value for key, value in wanted.items())
    measured = {"commit": now["commit"], "time": now["time"], **part}
    parts = {**(before["parts"] if alike else {}), name: measured}
    return {**bundle, "parts": {one: parts[one] for one in PARTS if one in parts}}


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder on the disk (/tmp may be memory) that is gone with all its recordings."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bench_replay.", dir=parent) as folder:
        yield Path(folder)


def _before(results: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((results / "replay.json").read_text())
    except (OSError, ValueError):
        return {}
    return content

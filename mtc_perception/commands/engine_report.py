"""What `mtc-engine` prints."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mtc_perception.engines.tensorrt.build import BuiltEngine, Tell
from mtc_perception.engines.tensorrt.key import EngineKey
from mtc_perception.engines.tensorrt.library import NAMES
from mtc_perception.engines.tensorrt.machine import Machine
from mtc_perception.engines.tensorrt.store import StoredEngine
from mtc_perception.util.errors import EngineError
from mtc_perception.util.progress import Progress


@contextmanager
def build_progress(variant: str) -> Iterator[Tell]:
    """A progress bar on stderr while one variant is built; gives what to tell it with."""
    with Progress() as progress:
        progress.count(variant, 0, 1, "starting")
        yield lambda phase, fraction: progress.count(variant, fraction, 1, phase.lower())


def built_line(variant: str, built: BuiltEngine, path: Path) -> str:
    """One line about an engine that was just built."""
    return (
        f"{variant}: {title(built.key)}, {_mib(len(built.engine))},"
        f" built in {built.about['seconds']:.1f} s: {path}"
    )


def title(key: EngineKey) -> str:
    """Library and GPU of an engine."""
    return f"{NAMES[key.flavour]} {key.version}, {_gpus(key)}"


def short_name(entry: StoredEngine) -> str:
    """How commands name an engine: the beginning of its sha256."""
    return entry.sha256[:8]


def named(entries: Sequence[StoredEngine], name: str) -> StoredEngine:
    """The one engine whose sha256 begins with `name`, or whose file that is.

    Raises EngineError if it is none or several.
    """
    found = [
        entry
        for entry in entries
        if entry.sha256.startswith(name) or name in (str(entry.path), entry.path.name)
    ]
    if len(found) == 1:
        return found[0]
    what = "no engine" if not found else "more than one engine"
    raise EngineError(f"{what} is called {name!r}; mtc-engine list shows them all")


def engines_table(entries: Sequence[StoredEngine], machine: Machine) -> Table:
    """All engines of a store, and which of them fit `machine`."""
    table = Table()
    for column in ("engine", "bundle", "precision", "for"):
        table.add_column(column, overflow="fold", no_wrap=column in ("engine", "precision"))
    table.add_column("MiB", justify="right")
    table.add_column("here", overflow="fold")
    for entry in entries:
        table.add_row(
            short_name(entry),
            str(entry.about.get("bundle", "")),
            entry.key.precision,
            title(entry.key),
            f"{entry.size_bytes / 2**20:.1f}",
            machine.misfit(entry.key) or ("runs" if machine.runs(entry.key) else "not known"),
        )
    if machine.device is None:
        table.caption = "Without a GPU nothing tells which engines fit."
    return table


def engine_tables(entry: StoredEngine, layers: Mapping[str, int] | str) -> list[Table]:
    """Everything about one engine. `layers`: how many run in each precision, or why that is not
    known."""
    key, about = entry.key, entry.about
    facts = Table(show_header=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in {
        "engine": short_name(entry),
        "file": str(entry.path),
        "size": _mib(entry.size_bytes),
        "sha256": entry.sha256,
        "library": f"{NAMES[key.flavour]} {key.version}",
        "GPU": _gpus(key),
        "its size": f"{key.multiprocessors} multiprocessors, {key.memory_mib} MiB"
        if key.gpu
        else None,
        "precision": key.precision,
        "input": f"{key.profile} (images x height x width)",
        "bundle": about.get("bundle"),
        "model sha256": key.model_sha256,
        "built": about.get("built"),
        "build time": f"{about['seconds']:.1f} s" if "seconds" in about else None,
        "command": about.get("command"),
        "network's layers": about.get("layers"),
        "convolutions and matrix products": _shares(about.get("products", {})),
        "layers as they run": layers if isinstance(layers, str) else _shares(layers),
    }.items():
        if value is not None:
            facts.add_row(name, Text(str(value)))  # brackets are no markup
    tensors = Table()
    for column in ("tensor", "", "type", "shape"):
        tensors.add_column(column)
    for side in ("inputs", "outputs"):
        for tensor in about.get(side, ()):
            shape = " x ".join(str(size) for size in tensor["shape"])
            tensors.add_row(tensor["name"], side[:-1], tensor["dtype"], shape)
    return [facts, tensors]


def bench_table(found: Mapping[str, Any]) -> Table:
    """What `engine_bench.measure` found."""
    table = Table(title=found["engine"], title_justify="left")
    table.add_column("ms")
    columns = ("p50", "p95", "p99", "max", "mean")
    for column in columns:
        table.add_column(column, justify="right")
    for name, times in found["latency_ms"].items():
        table.add_row(name, *(f"{times[column]:.3f}" for column in columns))
    layers = found["layers"]
    table.caption = (
        f"{found['runs']} camera images, {found['images_per_s']:.1f} per second; the host adds"
        f" {found['host_overhead']:.1%} to the engine's time on the GPU; layers:"
        f" {layers if isinstance(layers, str) else _shares(layers)}"
    )
    return table


def _gpus(key: EngineKey) -> str:
    capabilities = ", ".join(key.compute_capability)
    return f"{key.gpu} ({capabilities})" if key.gpu else capabilities


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count} ({count / total:.0%})" for name, count in counts.items())


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"

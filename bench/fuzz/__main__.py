"""`python -m bench.fuzz`: fuzz, print, and write results/fuzz.json."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.common import ends_in_one_line, write_result
from bench.fuzz.runner import MOST_GROWTH, Fuzzed, corpus_of, fuzz, input_of, targets
from mtc_perception.util.progress import Progress

INPUTS = 10_000
FOUND = Path("out", "fuzz")


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every input was answered as declared, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.fuzz",
        description="Try mutated messages, bundles, recordings, label files, recipes and graphs. "
        f"What is found lies in {FOUND} afterwards; once mended, it belongs into "
        "bench/fuzz/corpus/TARGET.",
    )
    parser.add_argument("only", nargs="*", help=f"targets; default: all of {', '.join(targets())}")
    parser.add_argument(
        "--inputs", type=int, default=INPUTS, help="of each target; slow ones less (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all inputs (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    every = targets()
    if unknown := set(options.only) - set(every):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    chosen = {name: every[name] for name in options.only or every}
    console = Console()
    fuzzed: dict[str, Fuzzed] = {}
    with Progress(console=console) as progress:
        for name, target in chosen.items():
            inputs = max(1, round(options.inputs * target.share))
            tick = progress.ticker(f"fuzz, {name}", inputs + len(corpus_of(target)))
            fuzzed[name] = fuzz(target, options.seed, inputs, tick)
    for name, one in fuzzed.items():
        _keep(name, options.seed, one)
    console.print(_table(fuzzed))
    for name, one in fuzzed.items():
        for finding in one.findings:
            console.print(f"{name}, input {finding.input}: {finding.what}", highlight=False)
    if not options.only:
        content = {"seed": options.seed, "targets": {n: _row(one) for n, one in fuzzed.items()}}
        console.print(f"wrote {write_result(options.results, 'fuzz', content)}", highlight=False)
    return 1 if any(one.findings or not _flat(one) for one in fuzzed.values()) else 0


def _flat(fuzzed: Fuzzed) -> bool:
    return fuzzed.memory_growth is None or fuzzed.memory_growth <= MOST_GROWTH


def _keep(name: str, seed: int, fuzzed: Fuzzed) -> None:
    """The inputs of the findings, as files."""
    target = targets()[name]
    numbers = [one.input for one in fuzzed.findings if isinstance(one.input, int)]
    if not numbers:
        return
    with tempfile.TemporaryDirectory() as folder:
        seeds = target.seeds(Path(folder))
    place = FOUND / name.replace(" ", "_")
    place.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (place / f"{seed}_{number}").write_bytes(input_of(target, seed, number, seeds))


def _row(fuzzed: Fuzzed) -> dict[str, object]:
    growth = fuzzed.memory_growth
    return {
        "inputs": fuzzed.inputs,
        "accepted": fuzzed.accepted,
        "findings": len(fuzzed.findings),
        "seconds": round(fuzzed.seconds, 1),
        "memory_growth": None if growth is None else round(growth, 4),
    }


def _table(fuzzed: dict[str, Fuzzed]) -> Table:
    table = Table(title="Fuzzing", title_justify="left")
    table.add_column("target")
    for column in ("inputs", "accepted", "findings", "s", "memory"):
        table.add_column(column, justify="right")
    for name, one in fuzzed.items():
        growth = "-" if one.memory_growth is None else f"{100 * one.memory_growth:+.1f} %"
        counts = (one.inputs, one.accepted, len(one.findings))
        row = (*map(str, counts), f"{one.seconds:.0f}", growth)
        table.add_row(name, *row, style=None if not one.findings and _flat(one) else "red")
    return table


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bench.soak`: an hour of everything that happens to a node, and what grew meanwhile."""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.common import ends_in_one_line, write_result
from bench.soak_figures import unexplained, verdicts
from bench.soak_run import CAMERAS, PHASES, Plan, Seen, soak
from mtc_perception.node.parameters import default_bundle
from mtc_perception.replay.recordings.synthetic_drive import SYNTHETIC_RATE_HZ, synthetic_bag
from mtc_perception.util.progress import Progress

PHASE_S = 3.0
RECORDED_S = 10.0
"""Length of the drive that `make demo` makes as well."""
FEWEST_ROUNDS = 3
"""One to warm up, two to compare."""
MOST_WORDS = 20
"""Of what is wrong, in the result."""
COUNTS = ("received", "processed", "dropped", "stale", "malformed")


def result_of(plan: Plan, seen: Seen) -> dict[str, Any]:
    """The content of `soak.json`."""
    rows = {}
    for name in ("start", *PHASES):
        accounts = [one for one in seen.accounts if one.phase.split()[-1] == name]
        if accounts:
            rows[name] = {
                "times": len(accounts) // len(CAMERAS),
                **{key: sum(getattr(one.counters, key) for one in accounts) for key in COUNTS},
                "overtaken": sum(one.overtaken for one in accounts),
                "unexplained": sum(bool(unexplained(one)) for one in accounts),
            }
    wrong = [words for account in seen.accounts for words in unexplained(account)]
    return {
        "bundle": plan.bundle.name,
        "seed": plan.seed,
        "rate_hz": plan.rate_hz,
        "cameras": CAMERAS,
        "resolution": seen.resolution,
        "engine": {key: seen.engine.get(key, "") for key in ("engine", "device", "precision")},
        "minutes": round(seen.moments[-1].since_start_s / 60, 1) if seen.moments else 0.0,
        "rounds": len(seen.moments),
        "phases": rows,
        "moments": [asdict(moment) for moment in seen.moments],
        "unexplained": wrong[:MOST_WORDS],
        "problems": seen.problems[:MOST_WORDS],
        "targets": verdicts(seen.accounts, seen.moments, seen.problems),
    }


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0 if nothing grew and everything is explained, 1 if not, 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description="Let everything that happens to a node happen to it, again and again, and "
        "watch its memory, handles, threads, and every image.",
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="(%(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when (%(default)s)")
    parser.add_argument(
        "--rate",
        type=float,
        default=float(SYNTHETIC_RATE_HZ),
        help="of each camera, in Hz: less for a machine that does other things (%(default)g)",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    if options.rate <= 0:
        parser.error("--rate must be positive")
    console = Console()
    plan = Plan(
        default_bundle(),
        synthetic_bag(Path("out"), RECORDED_S),
        options.rate,
        options.seed,
        PHASE_S,
    )
    content = result_of(plan, _soaked(plan, 60 * options.minutes, console))
    _show(content, console)
    console.print(f"wrote {write_result(options.results, 'soak', content)}", highlight=False)
    return 0 if all(verdict["met"] for verdict in content["targets"].values()) else 1


def _soaked(plan: Plan, seconds: float, console: Console) -> Seen:
    """Rounds are begun until the time is over; in the second half of it the node is not cleaned up,
    so that what a cleanup would free adds up."""
    began_s = time.monotonic()

    def rounds() -> Iterator[Sequence[str]]:
        for done in itertools.count():
            passed_s = time.monotonic() - began_s
            if done >= FEWEST_ROUNDS and passed_s >= seconds:
                return
            yield [name for name in PHASES if name != "restart" or passed_s < seconds / 2]

    with Progress(console=console) as progress:

        def tick(phase: str) -> None:
            done_s = min(time.monotonic() - began_s, seconds)
            progress.count("soak, s", done_s, seconds, f"round {phase}")

        return soak(plan, rounds(), tick)


def _show(content: dict[str, Any], console: Console) -> None:
    table = Table(title=f"Soak, {content['rounds']} rounds, images", title_justify="left")
    table.add_column("phase")
    columns = ("times", *COUNTS, "overtaken", "unexplained")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in content["phases"].items():
        table.add_row(name, *(str(row[column]) for column in columns))
    console.print(table)
    for words in (*content["unexplained"], *content["problems"]):
        console.print(words, soft_wrap=True, highlight=False, markup=False)
    for name, verdict in content["targets"].items():
        line = f"{'PASS' if verdict['met'] else 'MISS'}  {name}: {verdict['words']}"
        console.print(line, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())

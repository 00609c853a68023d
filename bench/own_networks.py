"""`python -m bench.own_networks RUNS`: what the examples left, as tables of docs/own_network.md.

RUNS holds the output folders of examples/twinlitenet.py, yolop.py and hybridnets.py, or some of
them, by these names: figures, and the network before and after the cut as bundles, which are timed
in turn.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.common import ends_in_one_line, write_result
from bench.tables import read_results, render, rewrite, with_numbers
from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.engine import Network
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import Progress
from offline_compress.evaluation.latency import conditions, interleaved
from offline_compress.quantization.assess import FP32

NAME, PAGE = "own_networks", Path("docs/own_network.md")
EXAMPLES = ("twinlitenet", "yolop", "hybridnets")
FIGURES = "figures.json"
ENGINE = "openvino"


def collected(runs: Path, timed: bool, progress: Progress) -> dict[str, Any]:
    """Figures of every example that has run, and of both its networks parameters,
    multiply-accumulates and, if `timed`, milliseconds. Raises UserError if none has run."""
    found: dict[str, Any] = {}
    folders = {example: runs / example for example in EXAMPLES}
    ran = {name: folder for name, folder in folders.items() if (folder / FIGURES).is_file()}
    if not ran:
        raise UserError(f"{runs} has no figures of {', '.join(EXAMPLES)}: run examples/ first")
    for example, folder in ran.items():
        figures = json.loads((folder / FIGURES).read_text())
        bundles = {name: read_bundle(folder / f"{name}.mtc") for name in ("whole", "small")}
        size = bundles["small"].manifest.input
        found[example] = {
            "figures": figures,
            "parameters": {name: one.manifest.params for name, one in bundles.items()},
            "gmacs": {name: one.manifest.gmacs for name, one in bundles.items()},
            "input": {"height": size.height, "width": size.width},
        }
        if timed:
            networks = {(name, ENGINE): Network.of(one, FP32) for name, one in bundles.items()}
            small, whole = ("small", ENGINE), ("whole", ENGINE)
            latencies = interleaved(networks, progress.counter(f"timing {example}"))
            found[example]["latency_ms"] = {key[0]: latencies.summary(key) for key in networks}
            found[example]["latency_ratio"] = latencies.ratio(small, whole)
    measured = conditions() if timed else {}
    return {"engine": ENGINE, "precision": FP32, "networks": found} | measured


def with_table(page: str, results: Path) -> str:
    """The page with its tables, from the committed result alone."""
    [found] = read_results(results, (NAME,)).values()
    return with_numbers(page, render(f"{NAME}.md.j2", found=found), f"bench.{NAME}")


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{NAME}",
        description="Compressed public networks: results/own_networks.json and the tables of it.",
    )
    parser.add_argument("runs", type=Path, help="folder of the examples' output folders")
    parser.add_argument(
        "--latency",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time them as well, in turn: on an idle machine (%(default)s)",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    with Progress(alone=True) as progress:
        content = collected(options.runs, options.latency, progress)
    path = write_result(options.results, NAME, content)
    Console().print(f"wrote {path}", highlight=False)
    return rewrite(PAGE, lambda page, _: with_table(page, options.results))


if __name__ == "__main__":
    sys.exit(main())

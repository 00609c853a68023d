"""`python -m bench.own_networks RUNS`: what the examples left, as tables of docs/own_network.md.

RUNS holds the output folders of examples/twinlitenet.py, yolop.py and hybridnets.py, or some of
them, by these names: figures, and the network before and after the cut as bundles, which are timed
in turn. Each has a result of its own, and keeps that where its folder is not there.
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

PAGE = Path("docs/own_network.md")
EXAMPLES = ("twinlitenet", "yolop", "hybridnets")
FIGURES = "figures.json"
ENGINE = "openvino"


def collected(folder: Path, timed: bool, progress: Progress) -> dict[str, Any]:
    """What an example found, and of both its networks parameters, multiply-accumulates and, if
    `timed`, milliseconds. Raises UserError for a bundle that is missing."""
    bundles = {name: read_bundle(folder / f"{name}.mtc") for name in ("whole", "small")}
    size = bundles["small"].manifest.input
    found = {
        "figures": json.loads((folder / FIGURES).read_text()),
        "parameters": {name: one.manifest.params for name, one in bundles.items()},
        "gmacs": {name: one.manifest.gmacs for name, one in bundles.items()},
        "input": {"height": size.height, "width": size.width},
    }
    if not timed:
        return found
    networks = {(name, ENGINE): Network.of(one, FP32) for name, one in bundles.items()}
    latencies = interleaved(networks, progress.counter(f"timing {folder.name}"))
    return {
        **found,
        "latency_ms": {key[0]: latencies.summary(key) for key in networks},
        "latency_ratio": latencies.ratio(("small", ENGINE), ("whole", ENGINE)),
        "engine": ENGINE,
        "precision": FP32,
        **conditions(),
    }


def result_of(example: str) -> str:
    """The name of an example's result."""
    return f"own_{example}"


def with_table(page: str, results: Path) -> str:
    """The page with its tables, from the committed results alone."""
    known = [one for one in EXAMPLES if (results / f"{result_of(one)}.json").is_file()]
    found = read_results(results, map(result_of, known)).values()
    networks = dict(zip(known, found, strict=True))
    return with_numbers(page, render("own_networks.md.j2", networks=networks), "bench.own_networks")


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.own_networks",
        description="Compressed public networks: results/own_*.json and the tables of them.",
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
    ran = [one for one in EXAMPLES if (options.runs / one / FIGURES).is_file()]
    if not ran:
        raise UserError(
            f"{options.runs} has no figures of {', '.join(EXAMPLES)}: run examples/ first"
        )
    for example in ran:
        with Progress(alone=True) as progress:
            content = collected(options.runs / example, options.latency, progress)
        path = write_result(options.results, result_of(example), content)
        Console().print(f"wrote {path}", highlight=False)
    return rewrite(PAGE, lambda page, _: with_table(page, options.results))


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bench.peers_accuracy PEER.mtc...`: public networks on our frames, by our metrics.

The networks are no part of this repository: each is a bundle that `mtc-compress wrap` has made of
its authors' ONNX file. It is fed and scored like any network of ours, in the tasks that it does.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.common import ends_in_one_line, write_result
from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.engine import Network
from mtc_perception.datasets.layout import Sample
from mtc_perception.metrics.figures import figures, nested
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import Progress
from offline_compress.data.labelled import labelled_split
from offline_compress.evaluation.accuracy import evaluate_subject
from offline_compress.evaluation.evaluation_report import TextTable
from offline_compress.evaluation.latency import Key, conditions, interleaved
from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS, Subject, open_subject
from offline_compress.quantization.assess import FP32, TIMED_ON
from offline_compress.recipe.parts import DataSource
from offline_compress.report.compression_report import terminal_table

NAME = "peers_accuracy"
FIGURES = figures("detection.map50", "detection.map50_95", "drivable.miou", "lane.iou")
"""None at a score threshold: the best one of these images would be chosen on them."""


def peers_accuracy(
    peers: Sequence[Path],
    models: Sequence[Path],
    data: Sequence[DataSource],
    timed: bool,
) -> dict[str, Any]:
    """Accuracy of bundles of public networks, and of our `models`, on `data`, all in fp32.

    Raises UserError if a bundle or a data set is missing, or if two peers have one name.
    """
    samples = {source.title: labelled_split(source, "evaluate on") for source in data}
    subjects: dict[str, Subject] = {}
    for path in (*peers, *models):
        one = open_subject(path, precision=FP32)
        name = one.identity["name"]
        if name in subjects:
            raise UserError("two of the bundles have one name: give them --name as they are made")
        subjects[name] = one
    networks: dict[str, Any] = {}
    content: dict[str, Any] = {
        "images": {name: len(one) for name, one in samples.items()},
        "networks": networks,
    }
    with Progress(alone=True) as progress:
        for name, subject in subjects.items():
            networks[name] = {
                "sha256": subject.identity["sha256"],
                "tasks": list(subject.tasks),
                "params": subject.params,
                "gmacs": subject.gmacs,
                "sets": _on_each(subject, samples, name, progress),
            }
        if timed:
            graphs = _graphs(dict(zip(subjects, [*peers, *models], strict=True)))
            latencies = interleaved(graphs, progress.counter("timing"))
            for name, engine in graphs:
                median_ms = latencies.summary((name, engine))["p50"]
                networks[name].setdefault("latency_ms", {})[engine] = median_ms
            content["latency_conditions"] = conditions() | {"precision": FP32}
    return content


def _graphs(bundles: Mapping[str, Path]) -> dict[Key, Network]:
    """Every bundle in fp32, on every engine of `TIMED_ON`."""
    networks = {name: Network.of(read_bundle(path), FP32) for name, path in bundles.items()}
    return {(name, engine): one for name, one in networks.items() for engine in TIMED_ON}


def _on_each(
    subject: Subject, samples: Mapping[str, Sequence[Sample]], what: str, progress: Progress
) -> dict[str, Any]:
    found = {}
    for name, one in samples.items():
        counted = progress.track(one, f"{what} on {name}", unit="img")
        alike = replace(subject, thresholds=CHECKPOINT_THRESHOLDS)
        metrics = evaluate_subject(alike, counted).metrics.to_json()
        known = [figure for figure in FIGURES if figure.task in metrics]
        found[name] = nested(known, lambda figure, m=metrics: figure.of(m))  # type: ignore[misc]
    return found


def table(content: dict[str, Any]) -> TextTable:
    """A section per set, a row per network."""
    sections = []
    for name, images in content["images"].items():
        rows = []
        for network, one in content["networks"].items():
            values = [figure.of(one["sets"].get(name, {})) for figure in FIGURES]
            if any(value is not None for value in values):
                cells = ["" if value is None else f"{value:.3f}" for value in values]
                rows.append([f"{name}, {images} images", network, *cells])
        sections.append(rows)
    columns = ["frames", "network", *(figure.title for figure in FIGURES)]
    return TextTable("Accuracy on the same frames", columns, sections)


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0, 2 for a mistake of the user's, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers_accuracy",
        description="Accuracy and latency of public networks, and ours, on the same frames.",
    )
    parser.add_argument(
        "peers", type=Path, nargs="+", help="bundles of others, made by `mtc-compress wrap`"
    )
    parser.add_argument(
        "--data", type=Path, action="append", required=True, help="data set; may be repeated"
    )
    parser.add_argument("--split", default="val", help="of every data set (%(default)s)")
    parser.add_argument(
        "--model", type=Path, action="append", default=[], help="bundle of ours; may be repeated"
    )
    parser.add_argument(
        "--latency",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time them as well, in turn: on an idle machine (%(default)s)",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    sources = [DataSource(root=root, split=options.split) for root in options.data]
    console = Console()
    content = peers_accuracy(options.peers, options.model, sources, options.latency)
    console.print(terminal_table(table(content)))
    path = write_result(options.results, NAME, content)
    console.print(f"wrote {path}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bench.decoder CHECKPOINT --data ROOT`: what layers and queries of a query decoder are
worth per millisecond.

The network with its first layers alone, and with its best queries alone, none of it trained since:
the points of mAP50-95 that each has more than the one before, over the milliseconds that it takes
more. What `compress.prune.decoder_layers` and `decoder_queries` shall be follows from that; by
default all of them stay. What a recovery brings back is not seen here.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from bench.common import ends_in_one_line, write_result
from mtc_perception.core.engine import Network
from mtc_perception.datasets.layout import Sample
from mtc_perception.metrics.figures import figures
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import Progress
from offline_compress.channels.surgery import shorten_decoder
from offline_compress.data.labelled import evenly, labelled_sets
from offline_compress.evaluation.latency import Key, conditions, interleaved
from offline_compress.export import deployed
from offline_compress.models.decoder import QueryDecoder
from offline_compress.models.registry import ModelSpec, load_checkpoint, load_spec
from offline_compress.recipe.parts import DataSource
from offline_compress.training.validation import validator

ENGINES = "openvino", "onnxruntime"
SHARES = (0.1, 0.25, 0.5, 0.75)
"""Of the queries, beside all of them."""
FIGURES = figures("detection.recall", "detection.map50", "detection.map50_95")
WORTH = "detection.map50_95"


@dataclass(frozen=True, slots=True)
class Short:
    """A decoder of fewer layers or queries."""

    layers: int
    queries: int

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.queries} queries"


def shorter(layers: int, queries: int) -> dict[str, list[Short]]:
    """What is tried of a decoder, by what there is less of; the whole one is the last of both."""
    fewer = sorted({max(1, round(queries * share)) for share in SHARES} | {queries})
    return {
        "layers": [Short(one, queries) for one in range(1, layers + 1)],
        "queries": [Short(layers, one) for one in fewer],
    }


def worth(rows: Sequence[Mapping[str, Any]], engine: str) -> list[float | None]:
    """Points of mAP50-95 per millisecond that each row has more than the one before it.

    None for the first, where nothing is labelled, and where no time was saved.
    """
    found: list[float | None] = [None]
    for before, after in pairwise(rows):
        spent_ms = after["ms"][engine] - before["ms"][engine]
        points = [row["accuracy"][WORTH] for row in (before, after)]
        known = spent_ms > 0 and None not in points
        found.append(round(100 * (points[1] - points[0]) / spent_ms, 3) if known else None)
    return found


def measure(
    spec: ModelSpec,
    model: nn.Module,
    sets: Mapping[str, Sequence[Sample]],
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    """Accuracy and times of each, fewest layers or queries first. Raises UserError for a network
    without query decoder."""
    decoder = getattr(model, "detection_head", None)
    if not isinstance(decoder, QueryDecoder):
        raise UserError(f"{spec.name} has no query decoder")
    tried = shorter(len(decoder.layers), decoder.queries)
    validate = validator(sets)
    accuracy: dict[Short, dict[str, float | None]] = {}
    networks: dict[Key, Network] = {}
    for short in dict.fromkeys(one for row in tried.values() for one in row):
        network, own = shorten_decoder(model, spec, short.layers, short.queries)
        metrics = validate(network, own, partial(progress.count, f"evaluating {short}"))
        accuracy[short] = {figure.name: figure.of(metrics) for figure in FIGURES}
        exported = deployed(network, spec.height, spec.width)
        networks |= {(str(short), engine): exported for engine in ENGINES}
    times = interleaved(networks, partial(progress.count, "timing"))
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, shorts in tried.items():
        found[kind] = [
            {
                "layers": one.layers,
                "queries": one.queries,
                "accuracy": accuracy[one],
                "ms": {name: times.summary((str(one), name))["p50"] for name in ENGINES},
            }
            for one in shorts
        ]
        for engine in ENGINES:
            for row, points in zip(found[kind], worth(found[kind], engine), strict=True):
                row.setdefault("points_per_ms", {})[engine] = points
    return found


def tables(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Table]:
    """One of the layers, one of the queries."""

    def words(value: float | None, form: str) -> str:
        return "n/a" if value is None else format(value, form)

    shown = []
    for kind, rows in found.items():
        columns = [kind, *(figure.title.removeprefix("detection ") for figure in FIGURES)]
        for engine in ENGINES:
            columns += [f"{engine}, ms", "worth"]
        table = Table(*columns, title="worth: points of mAP50-95 per ms more")
        for row in rows:
            cells = [str(row[kind])]
            cells += [words(row["accuracy"][figure.name], ".3f") for figure in FIGURES]
            for engine in ENGINES:
                cells += [f"{row['ms'][engine]:.2f}", words(row["points_per_ms"][engine], "+.2f")]
            table.add_row(*cells)
        shown.append(table)
    return shown


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.decoder", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="labelled data set")
    parser.add_argument("--split", default="val", help="(%(default)s)")
    parser.add_argument("--images", type=int, default=200, help="at most so many (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    args = parser.parse_args(arguments)
    console = Console()
    spec, model = load_spec(args.checkpoint), load_checkpoint(args.checkpoint)
    source = DataSource(root=args.data, split=args.split)
    labelled = labelled_sets([source], "measure the decoder by", spec.class_map)
    sets = {name: evenly(samples, args.images) for name, samples in labelled.items()}
    with Progress(alone=True) as progress:
        found = measure(spec, model, sets, progress)
    for table in tables(found):
        console.print(table)
    content = {
        "network": spec.name,
        "checkpoint": str(args.checkpoint),
        "data": {"title": source.title, "images": sum(map(len, sets.values()))},
        "conditions": conditions(),
        **found,
    }
    console.print(f"wrote {write_result(args.results, 'decoder', content)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

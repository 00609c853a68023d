"""`python -m bench.suppression`: what rules for duplicate boxes do to the accuracy of networks.

The candidates of every image are computed once and suppressed by each rule: by the overlap alone,
and with the rule for boxes inside better ones as well.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.common import ends_in_one_line, tracked, write_result
from mtc_perception.core.class_map import VEHICLE_CLASSES
from mtc_perception.core.engine import Outputs
from mtc_perception.core.input_size import InputSize
from mtc_perception.core.letterbox import Letterbox
from mtc_perception.core.perception import SCORE_FLOOR, decode_boxes
from mtc_perception.datasets.layout import read_source, read_truth
from mtc_perception.metrics.detection import DetectionMetric
from mtc_perception.util.errors import UserError
from offline_compress import export
from offline_compress.data.labelled import labelled_split
from offline_compress.losses.boxes import box_iou
from offline_compress.models.decoder import QueryDetections
from offline_compress.models.registry import load_checkpoint, load_spec
from offline_compress.recipe.parts import DataSource

NAME = "suppression"
DEPLOYED = "inside 0.85, IoU 0.4"
"""What bundles are exported with: the defaults of `export.suppress`."""
RULES: dict[str, dict[str, float]] = {
    "IoU 0.5": {"most_iou": 0.5, "most_inside": 1.0},
    "IoU 0.6": {"most_iou": 0.6, "most_inside": 1.0},
    "IoU 0.7": {"most_iou": 0.7, "most_inside": 1.0},
    "inside 0.9": {"most_inside": 0.9, "inside_from_iou": 0.0},
    DEPLOYED: {},
}
"""Arguments of `export.suppress`."""
SHOWN = 0.3
"""Least score of boxes that are counted as nested."""
NESTED = 0.85
"""Of the smaller of two boxes."""


def measure(checkpoint: Path, root: Path, console: Console) -> list[dict[str, Any]]:
    """Figures of each rule on split `val` of a data set. Raises UserError."""
    spec, model = load_spec(checkpoint), load_checkpoint(checkpoint)
    size = InputSize(spec.height, spec.width, spec.fit)
    metrics = {name: DetectionMetric() for name in RULES}
    nested = dict.fromkeys(RULES, 0)
    for sample in tracked(
        labelled_split(DataSource(root=root, split="val"), "score"),
        f"{root.name}, {spec.name}",
        console,
    ):
        source = read_source(sample.image_path, size)
        truth = read_truth(sample, (source.height, source.width))
        if truth.boxes is None:
            raise UserError(f"{root} has no vehicle labels")
        objects = VEHICLE_CLASSES.objects(truth)
        letterbox = Letterbox.fit(source.height, source.width, *size)
        image = torch.empty(1, spec.height, spec.width, 3, dtype=torch.uint8)
        letterbox.write(source, image[0].numpy())
        with torch.inference_mode():
            output = model(export.normalise(image.permute(0, 3, 1, 2)))
            if isinstance(output.detections, QueryDetections):
                raise UserError(f"{checkpoint} has a query decoder, which needs no suppression")
            boxes, scores, labels = export.best(
                output.detections, export.CANDIDATES, output.drivable
            )
        for name, changes in RULES.items():
            left = export.suppress(boxes, scores, labels, **changes)
            kept, order = torch.sort(left, dim=1, descending=True, stable=True)
            count = export.MAX_DETECTIONS
            empty = np.zeros((1, 1, 1), np.uint8)
            outputs = Outputs(
                boxes[:, order[0]].numpy(), kept.numpy(), labels.numpy(), empty, empty
            )
            found, found_scores, _ = decode_boxes(outputs, letterbox, SCORE_FLOOR, count)
            metrics[name].update(found, found_scores, objects.boxes, objects.ignore)
            nested[name] += _nested(torch.from_numpy(found[found_scores >= SHOWN]))
    rows = []
    for name, metric in metrics.items():
        figures, sweep = metric.compute(), metric.sweep(np.arange(0.05, 0.95, 0.01).tolist())
        rows.append(
            {
                "network": checkpoint.name,
                "data": root.name,
                "rule": name,
                "map50": figures.map50,
                "map50_95": figures.map50_95,
                "best_f1": float(np.nanmax(sweep["f1"])),
                "nested": nested[name],
            }
        )
    return rows


def _nested(boxes: torch.Tensor) -> int:
    """Pairs of boxes [n, 4] of which one lies in the other by more than NESTED."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    iou = box_iou(boxes[:, None], boxes)
    both = iou / (1 + iou) * (area[:, None] + area)
    return int((both > NESTED * torch.minimum(area[:, None], area)).triu(1).sum())


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.suppression", description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, action="append", required=True, metavar="ROOT")
    parser.add_argument("--results", type=Path, default=Path("results"), help="(%(default)s)")
    args = parser.parse_args(arguments)
    console = Console()
    rows: list[dict[str, Any]] = []
    for checkpoint in args.checkpoints:
        for root in args.data:
            rows += measure(checkpoint, root, console)
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(table)
    console.print(f"wrote {write_result(args.results, NAME, {'rows': rows})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

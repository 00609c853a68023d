"""`python -m bench.conflict CHECKPOINT --data ROOT`: is it conflict that the conflict measures?

The gradients of two tasks on the same images are compared, as the penalty does (GCP, see
docs/method.md); then of two tasks on different images, where there is nothing to fight over (the
null); and of one task on different images, which ought to agree.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.common import ends_in_one_line
from mtc_perception.core.bundle import sha256_hex
from mtc_perception.core.tasks import TASKS
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import write_text_atomic
from mtc_perception.util.progress import Progress
from mtc_perception.util.provenance import provenance
from offline_compress.channels.groups import ChannelGroup, channel_groups
from offline_compress.data.batch import Batch
from offline_compress.data.labelled import source_samples
from offline_compress.data.labelled_batches import LabelledBatches
from offline_compress.importance.filters import filters, has_filters
from offline_compress.importance.measure import labelled_losses, scoring_mode
from offline_compress.importance.multi_task import description_of
from offline_compress.importance.scores import pair_names, pairs
from offline_compress.models.registry import WEIGHTS_FILE, load_checkpoint, load_spec
from offline_compress.recipe.parts import DataSource, InputPx
from offline_compress.report.compression_rows import Spread

PAIRS, PAIR_NAMES = pairs(TASKS), pair_names(TASKS)
BATCH = 8
"""Images of one forward pass, as in pruning; gradients of more images are means over passes."""

Gradients = list[dict[str, torch.Tensor]]
"""[3] by task: layer -> gradient of its weight."""


def channel_cosines(
    first: Gradients, second: Gradients, model: nn.Module, groups: Sequence[ChannelGroup]
) -> NDArray[np.float64]:
    """[3, 3, C] cosine between the gradient of each task in `first` and of each in `second`, with
    respect to the filters that make each channel of the groups; NaN where a task does not reach it.
    """
    modules = dict(model.named_modules())
    found = []
    for group in groups:
        dots, squares = np.zeros((3, 3, group.size)), np.zeros((2, 3, group.size))
        for part in group.slices:
            layer = modules.get(part.layer)
            if part.side != "out" or not has_filters(layer):
                continue
            rows = [
                torch.stack([filters(layer, task[part.layer]).flatten(1) for task in one]).double()
                for one in (first, second)
            ]
            both = torch.einsum("tcx,ucx->tuc", *rows).numpy()
            dots += both[..., part.index].sum(-1)
            for own, one in zip(squares, rows, strict=True):
                own += one.square().sum(-1).numpy()[:, part.index].sum(-1)
        lengths = np.sqrt(squares)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(dots / (lengths[0][:, None] * lengths[1][None]))
    return np.concatenate(found, -1)


def task_gradients(model: nn.Module, layers: Mapping[str, nn.Module], batch: Batch) -> Gradients:
    """Of the mean losses of a batch whose images have all labels."""
    weights = [layer.get_parameter("weight") for layer in layers.values()]
    losses = labelled_losses(model, batch, description_of(model))
    gradients = []
    for task, loss in enumerate(losses):
        assert loss is not None
        keep = task + 1 < len(losses)
        found = torch.autograd.grad(loss, weights, retain_graph=keep, allow_unused=True)
        pairs = zip(layers, found, weights, strict=True)
        gradients.append({k: torch.zeros_like(w) if g is None else g for k, g, w in pairs})
    return gradients


class Comparison:
    """Gradients of sets of some number of batches: each with itself, and with the next one."""

    def __init__(self, batches: int, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        self._batches, self._model, self._groups = batches, model, groups
        self._sum: Gradients = []
        self._summed = 0
        self._before: Gradients = []
        self._real: list[NDArray[np.float64]] = []
        self._null: list[NDArray[np.float64]] = []
        self._same: list[NDArray[np.float64]] = []

    def add(self, gradients: Gradients) -> None:
        """Count a batch's."""
        if self._summed:
            for total, own in zip(self._sum, gradients, strict=True):
                for name, gradient in own.items():
                    total[name] = total[name] + gradient
        else:
            self._sum = [dict(own) for own in gradients]
        self._summed += 1
        if self._summed == self._batches:
            self._compare()
            self._before, self._summed = self._sum, 0

    def _compare(self) -> None:
        own = channel_cosines(self._sum, self._sum, self._model, self._groups)
        self._real.append(np.stack([own[a, b] for a, b in PAIRS]))
        if self._before:
            other = channel_cosines(self._before, self._sum, self._model, self._groups)
            both_ways = np.stack([[other[a, b], other[b, a]] for a, b in PAIRS], 1)
            self._null.append(np.maximum(0, -both_ways).mean(0))
            self._same.append(np.stack([other[t, t] for t in range(len(TASKS))]))

    def row(self) -> dict[str, Any]:
        """Means over the channels that both tasks reach, as mean and deviation over the sets; what
        is compared with the set before, over all but the first."""
        cosines, by_chance = np.array(self._real), np.array(self._null)
        conflict = np.maximum(0, -cosines)
        maps = conflict.mean(0), by_chance.mean(0)
        shared = np.isfinite(maps[0]) & np.isfinite(maps[1])
        return {
            "sets": len(self._real),
            "gcp": _by(PAIR_NAMES, conflict),
            "null": _by(PAIR_NAMES, by_chance),
            "gcp_over_null": _by(PAIR_NAMES, conflict[1:] - by_chance),
            "cosine": _by(PAIR_NAMES, cosines),
            "same_task_cosine": _by(TASKS, np.array(self._same)),
            "correlation": float(np.corrcoef(maps[0][shared], maps[1][shared])[0, 1]),
        }


def _by(names: Sequence[str], maps: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    """Name -> mean over the known channels of each set, of `maps` [sets, names, C]."""
    of_sets = np.nanmean(maps, -1).T
    return {name: asdict(Spread.of(own.tolist())) for name, own in zip(names, of_sets, strict=True)}


def conflict_result(
    checkpoint: Path, root: Path, images: int, per_gradient: Sequence[int]
) -> dict[str, Any]:
    """What `results/conflict.json` holds. Raises UserError."""
    size = min(BATCH, *per_gradient)
    for number in per_gradient:
        if number < 1 or number % size or images < 2 * number:
            raise UserError(
                f"--images-per-gradient {number}: give a multiple of {size}, and at most half of "
                f"--images ({images})"
            )
    samples = [
        sample
        for sample in source_samples(DataSource(root=root, split="train"))
        if sample.boxes is not None and sample.drivable is not None and sample.lane is not None
    ]
    if len(samples) < images:
        raise UserError(f"{root} has {len(samples)} images with all labels, not --images {images}")
    # Evenly spread, and mixed: neighbours are often frames of one drive.
    chosen = np.random.default_rng(0).permutation(len(samples) * np.arange(images) // images)
    samples = [samples[number] for number in chosen]
    spec, model = load_spec(checkpoint), load_checkpoint(checkpoint)
    groups = [
        group for group in channel_groups(model, description_of(model)) if not group.protected
    ]
    deployed = InputPx(height=spec.height, width=spec.width, fit=spec.fit)
    batches = LabelledBatches(samples, deployed, size)
    modules = dict(model.named_modules())
    makers = (part.layer for g in groups for part in g.slices if part.side == "out")
    layers = {name: modules[name] for name in makers if has_filters(modules.get(name))}
    found = {number: Comparison(number // size, model, groups) for number in per_gradient}
    with Progress(alone=True) as progress, scoring_mode(model):
        for batch in progress.track(batches, "gradients"):
            gradients = task_gradients(model, layers, batch)
            for comparison in found.values():
                comparison.add(gradients)
    return {
        "network": spec.name,
        "sha256": sha256_hex((checkpoint / WEIGHTS_FILE).read_bytes()),
        "lineage": spec.lineage,
        "data": f"{root.name} train",
        "images": images,
        "rows": [
            {"images_per_gradient": number} | comparison.row()
            for number, comparison in found.items()
        ],
        **provenance(),
    }


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m bench.conflict", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a trained network")
    parser.add_argument("--data", type=Path, required=True, help="data set with all three tasks")
    parser.add_argument("--images", type=int, default=128, help="of split train (%(default)s)")
    parser.add_argument("--images-per-gradient", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--json", type=Path, default=Path("results/conflict.json"))
    options = parser.parse_args(arguments)
    result = conflict_result(
        options.checkpoint, options.data, options.images, options.images_per_gradient
    )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(options.json, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["rows"], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What every pruning step must pass, and what it does to the network's statistics before."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtc_perception.core.engine import Outputs
from mtc_perception.core.self_test import run_self_test, self_test_frame
from mtc_perception.engines.load import load_engine
from mtc_perception.metrics.figures import ACCURACY, OF_CLASSES, Figure
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import Count
from offline_compress.channels.description import Description, to_device
from offline_compress.channels.groups import ChannelGroup
from offline_compress.evaluation.torch_engine import TorchEngine
from offline_compress.export import deployed
from offline_compress.recipe.compression import Guard

SCORE_DIFFERENCE, BOX_DIFFERENCE_PX = 1e-3, 1.0
"""What a detection may differ by between PyTorch and ONNX Runtime."""
MOST_UNPAIRED = 0.1
"""Of the detections: two that nearly tie may be suppressed the other way round, and with one of
them go those that it would have suppressed."""
MASK_DIFFERENCE = 0.05
"""Largest mean difference of a mask's probability x 255 between PyTorch and ONNX Runtime."""


@torch.no_grad()
def recalibrate(
    model: nn.Module, batches: Sequence[Any], description: Description, count: Count
) -> None:
    """Measure the statistics of all BatchNorms anew, in place: the mean over `batches`.

    All else is in eval mode, so that the result depends on weights and batches alone.
    """
    device = next(model.parameters()).device
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    for number, batch in enumerate(batches):
        count(number, len(batches))
        description.output(model, to_device(batch, device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def check_network(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    floors: Mapping[str, int],
    size: tuple[int, int],
) -> None:
    """Refuse a pruned network, on the CPU, that is not what it should be.

    `groups` are its own, `floors` the fewest channels of those that may lose some, `size` is height
    and width of its image. Raises UserError if a group is narrower, if outputs are not finite or
    have other shapes than a bundle's, or if ONNX Runtime computes something else than PyTorch.
    """
    for group in groups:
        if not group.protected and group.size < floors[group.name]:
            raise UserError(
                f"{group.name} has {group.size} channels, fewer than {floors[group.name]}"
            )
    frame = self_test_frame(*size)
    reference = TorchEngine(model, *size)
    reference.input[0] = frame
    reference.start()
    wanted = reference.wait()
    if not (np.isfinite(wanted.boxes).all() and np.isfinite(wanted.scores).all()):
        raise UserError("the pruned network's outputs are not finite; prune less in each step")
    engine = load_engine(deployed(model, *size), "onnxruntime")
    found = run_self_test(engine)
    unpaired = _unpaired(wanted, found)
    masks = [
        np.abs(getattr(found, mask).astype(np.int16) - getattr(wanted, mask)).mean()
        for mask in ("drivable", "lane")
    ]
    engine.close()
    if not (unpaired <= MOST_UNPAIRED and max(masks) <= MASK_DIFFERENCE):  # nor NaN
        raise UserError(
            f"the pruned network computes something else once exported: {unpaired:.0%} of the "
            f"detections are others, masks differ by {max(masks):.3g} of 255 on average"
        )


def _unpaired(wanted: Outputs, found: Outputs) -> float:
    """Share of the detections wanted for which none like it is found; 0 for equal scores, as of
    boxes that tie any may be among the best."""
    if np.abs(wanted.scores - found.scores).max() <= SCORE_DIFFERENCE:
        return 0.0
    boxes = np.abs(wanted.boxes[0, :, None] - found.boxes[0]).max(2)
    scores = np.abs(wanted.scores[0, :, None] - found.scores[0])
    alike = (boxes <= BOX_DIFFERENCE_PX) & (scores <= SCORE_DIFFERENCE)
    found_again = alike.any(1)[wanted.scores[0] > SCORE_DIFFERENCE]  # the rest is padding
    return float(1 - found_again.mean()) if len(found_again) else 0.0


def broken_guard(guard: Guard, teacher: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Which judged figures have lost more points than `guard` allows, in words, or nothing.

    Of several classes the mean is judged, and the class that has lost most is named.
    """
    broken = []
    for name, before in teacher.items():
        if name not in ACCURACY:
            continue  # of one class
        figure = ACCURACY[name]
        allowed = getattr(guard, figure.task)
        lost = 100 * (before - after.get(name, math.nan))
        if math.isnan(lost):
            broken.append(f"{figure.title} is not a number")
        elif lost > allowed:
            limit = f"compress.prune.guard.{figure.task} allows {allowed:g}"
            most = _most_lost(figure, teacher, after)
            broken.append(f"{figure.title} lost {lost:.2f} points{most}, {limit}")
    return "; ".join(broken)


def _most_lost(figure: Figure, before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Which class has lost most of a figure, in words; nothing where there is one class."""
    lost = {
        name: 100 * (value - after[name])
        for name, value in before.items()
        if name.startswith(OF_CLASSES)
        and name.endswith(f".{figure.key}")
        and figure.task == "detection"
        and name in after
    }
    if not lost:
        return ""
    worst = max(lost, key=lambda name: lost[name])
    title = worst.removeprefix(OF_CLASSES).removesuffix(f".{figure.key}")
    return f" (most of all {title}, {lost[worst]:.2f})"

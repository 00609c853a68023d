"""Which layers a quantised network suffers from: measured, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from mtc_perception.core.engine import Outputs
from mtc_perception.util.progress import Count
from offline_compress.quantization.activation_ranges import Frames
from offline_compress.quantization.graph import with_float_layers

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A layer, and what it does when it alone is quantised."""

    layer: str
    share: float
    """What it adds to the disagreement with the float network, as a share of the wholly quantised
    network's, of the task where that is largest."""


def outputs_of(model: onnx.ModelProto, frames: Frames) -> list[Outputs]:
    """Run a graph operator by operator as it is written: nothing is fused that could go wrong."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in model.graph.output]
    return [
        Outputs(**dict(zip(names, session.run(names, {"image": frame}), strict=True)))
        for frame in frames
    ]


def disagreement(expected: Outputs, got: Outputs) -> Floats:
    """How far two outputs for one image are apart per task, in the order of TASKS, each in 0..1; 0
    for those that the network lacks.

    Masks: mean absolute difference of the probabilities. Detection: 1 - the agreement of every
    expected box with its best counterpart, IoU x (1 - difference of the scores), weighted by the
    expected score; so the order of boxes does not matter.
    """

    def mask(one: npt.NDArray[np.uint8] | None, other: npt.NDArray[np.uint8] | None) -> float:
        if one is None or other is None:
            return 0.0
        return float(np.abs(one.astype(np.float64) - other).mean() / 255.0)

    boxes, scores = expected.boxes[0].astype(np.float64), expected.scores[0].astype(np.float64)
    agreement = _iou(boxes, got.boxes[0].astype(np.float64)) * (
        1 - np.abs(scores[:, None] - got.scores[0].astype(np.float64))
    )
    best = agreement.max(1, initial=0.0)
    detection = (scores * (1 - best)).sum() / max(scores.sum(), 1e-9)
    drivable, lane = mask(expected.drivable, got.drivable), mask(expected.lane, got.lane)
    return np.array([detection, drivable, lane])


def mean_disagreement(expected: Sequence[Outputs], got: Sequence[Outputs]) -> Floats:
    """Mean over images of `disagreement`, [3]."""
    pairs = zip(expected, got, strict=True)
    mean: Floats = np.mean([disagreement(one, other) for one, other in pairs], 0)
    return mean


def ranking(
    quantised: onnx.ModelProto,
    reference: onnx.ModelProto,
    layers: Sequence[str],
    frames: Frames,
    count: Count = lambda _done, _total: None,
) -> list[Sensitivity]:
    """The `layers` of `quantised`, the most sensitive first; each is measured alone in int8.

    `reference` is the float graph, `count` is told layers done, and of how many.
    """
    expected = outputs_of(reference, frames)

    def error(in_float: Sequence[str]) -> Floats:
        mixed = with_float_layers(quantised, reference, in_float)
        return mean_disagreement(expected, outputs_of(mixed, frames))

    whole = np.maximum(error([]), 1e-9)
    rest = error(layers)  # of operators between the layers
    found = []
    for done, layer in enumerate(layers):
        count(done, len(layers))
        others = [other for other in layers if other != layer]
        share = float(((error(others) - rest) / whole).max())
        found.append(Sensitivity(layer, round(share, 4)))
    count(len(layers), len(layers))
    return sorted(found, key=lambda one: -one.share)


def _iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes [N, 4] and [M, 4] -> [N, M]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.clip(high - low, 0.0, None).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).clip(0.0).prod(-1) for x in (a, b))
    iou: Floats = overlap / np.maximum(area_a[:, None] + area_b[None] - overlap, 1e-9)
    return iou

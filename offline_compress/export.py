"""Export: a trained network becomes the deployable graph and its bundle."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mtc_perception import __version__
from mtc_perception.core.bundle import (
    InputSpec,
    LineageStep,
    Manifest,
    Precision,
    Thresholds,
    Training,
    Variant,
    sha256_hex,
    write_bundle,
)
from mtc_perception.core.engine import Network
from mtc_perception.core.self_test import measure_self_test, run_self_test
from mtc_perception.core.tasks import OUTPUTS, TASKS
from mtc_perception.engines.load import load_engine
from mtc_perception.util.errors import UserError
from offline_compress.models.decoder import QueryDetections
from offline_compress.models.fuse import fuse
from offline_compress.models.heads import DenseDetections
from offline_compress.models.network import NetworkOutput
from offline_compress.models.registry import WEIGHTS_FILE, load_checkpoint, load_spec

MEAN = 112.0
SCALE = 1 / 64.0
"""One mean and scale for all channels: exact in every precision, and enough before BatchNorm."""
CANDIDATES = 200
MAX_DETECTIONS = 100
NMS_IOU = 0.6
NMS_INSIDE, NMS_IOU_INSIDE = 0.85, 0.4
"""A box of which more than this lies inside a better one is a duplicate from a lesser overlap on:
it is a part of the same vehicle. Below that it may be another vehicle, far behind."""
NMS_ROUNDS = 4
OPSET = 17


def normalise(image: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 3, H, W] RGB -> float32, about zero mean and unit variance."""
    return (image.float() - MEAN) * SCALE


def suppress(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    labels: torch.Tensor,
    most_iou: float = NMS_IOU,
    most_inside: float = NMS_INSIDE,
    inside_from_iou: float = NMS_IOU_INSIDE,
) -> torch.Tensor:
    """Scores [N, K], descending, with those of duplicates set to 0.

    A box is a duplicate of a better one of its class if their intersection is more than `most_iou`
    of their union, or more than `most_inside` of the smaller one and `inside_from_iou` of their
    union.

    Cluster-NMS (arXiv 2005.03572): each round is one masked matrix maximum; the fixed point is
    greedy non-maximum suppression, and real scenes reach it in a few rounds.
    """
    # Boxes of different classes never overlap once shifted apart by more than any image is wide.
    shifted = boxes + labels[..., None].to(boxes.dtype) * 8192.0
    iou, inside = _overlaps(shifted)
    better = torch.ones_like(iou[0]).triu(1)
    part = (inside > most_inside) & (iou > inside_from_iou)
    duplicate = ((iou > most_iou) | part).to(iou.dtype) * better
    keep = torch.ones_like(scores)
    for _ in range(NMS_ROUNDS):
        keep = 1 - (duplicate * keep[..., None]).amax(1)
    return scores * keep


def _overlaps(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Intersection over union, and over the smaller one, of all pairs of boxes [N, K, 4] ->
    [N, K, K] each.

    By subtraction and ReLU: ONNX Runtime's Min and Max take twenty times as long.
    """

    def overlap(axis: int) -> torch.Tensor:
        low, high = boxes[..., axis], boxes[..., axis + 2]
        # min(a, b) = a - relu(a - b), max(a, b) = b + relu(a - b)
        least_high = high[:, :, None] - (high[:, :, None] - high[:, None]).relu()
        greatest_low = low[:, None] + (low[:, :, None] - low[:, None]).relu()
        return (least_high - greatest_low).relu()

    intersection = overlap(0) * overlap(1)
    size = (boxes[..., 2:] - boxes[..., :2]).relu()
    area = size[..., 0] * size[..., 1]
    one, other = area[:, :, None], area[:, None]
    smaller = one - (one - other).relu()
    union = one + other - intersection
    return intersection / union.clamp(min=1e-6), intersection / smaller.clamp(min=1e-6)


class DeployGraph(nn.Module):
    """The bundle's graph: uint8 pixels in; boxes, scores, labels and uint8 masks out."""

    def __init__(self, model: nn.Module, max_detections: int = MAX_DETECTIONS) -> None:
        super().__init__()
        self.model = fuse(model)
        self.max_detections = max_detections

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[N, H, W, 3] uint8 RGB -> boxes, scores, labels, drivable, lane (bundle contract)."""
        # Floats before anything else: TensorRT takes uint8 for inputs and outputs only.
        output: NetworkOutput = self.model(normalise(image.float().permute(0, 3, 1, 2)))
        found = output.detections
        if isinstance(found, QueryDetections):
            boxes, scores, labels = best(found, self.max_detections, output.drivable)
        else:
            candidates = max(CANDIDATES, self.max_detections)
            boxes, scores, labels = best(found, candidates, output.drivable)
            scores = suppress(boxes, scores, labels)
            scores, index = scores.topk(min(self.max_detections, scores.shape[1]), 1)
            boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
            labels = labels.gather(1, index)
        return (
            boxes,
            scores,
            labels.to(torch.int32),
            probability_bytes(output.drivable),
            probability_bytes(output.lane),
        )


def best(
    found: DenseDetections | QueryDetections, count: int, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The `count` predictions with the best scores, or all if there are fewer.

    Returns boxes [N, K, 4] clipped to the image, whose size is that of `mask` [N, H, W], scores
    [N, K], descending, and labels [N, K].
    """
    height, width = mask.shape[-2:]
    # Sorted after the sigmoid: an engine's own may turn nearly equal logits round.
    scores, labels = found.logits.sigmoid().max(-1)
    scores, index = scores.topk(min(count, scores.shape[1]), 1)
    boxes = found.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    return boxes, scores, labels.gather(1, index)


def probability_bytes(logits: torch.Tensor) -> torch.Tensor:
    """Logits -> uint8 probability x 255, rounded."""
    return (logits.sigmoid() * 255 + 0.5).to(torch.uint8)


def count_parameters(model: nn.Module) -> int:
    """Parameters as deployed: fused, a BatchNorm folded into its convolution as one bias each."""
    count = 0
    for module in fuse(model).modules():
        if isinstance(module, nn.BatchNorm2d):
            count += module.num_features
        else:
            count += sum(p.numel() for p in module.parameters(recurse=False))
    return count


def count_gmacs(model: nn.Module, height: int, width: int) -> float:
    """Multiply-accumulates of the fused network for one image, in 1e9."""
    return count_macs(model, (torch.zeros(1, 3, height, width),)) / 1e9


def count_macs(model: nn.Module, inputs: tuple[Any, ...]) -> float:
    """Multiply-accumulates of one forward pass of the fused network: convolutions and matrix
    products."""
    # The counter knows the matrix products that attention consists of, not every fused kernel.
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        fuse(model)(*inputs)
    return counter.get_total_flops() / 2


class TimedGraph(nn.Module):
    """A network of any make in the form of a bundle's graph, so that engines can time it.

    Everything that it returns takes part in the outputs, which mean nothing.
    """

    def __init__(self, model: nn.Module, answers: Callable[[Any], Any]) -> None:
        """`model` reads one image [1, 3, H, W]; `answers` finds its tensors."""
        super().__init__()
        self.model, self.answers = fuse(model), answers

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[1, H, W, 3] uint8 -> boxes, scores, labels, drivable, lane (bundle contract)."""
        output = self.model(normalise(image.float().permute(0, 3, 1, 2)))
        total = torch.stack([t.float().mean() for t in self.answers(output)]).sum().reshape(1, 1)
        mask = total.to(torch.uint8)[..., None].expand(1, *image.shape[1:3])
        return total[..., None].expand(1, 1, 4), total, total.to(torch.int32), mask, mask + 1


def onnx_graph(model: nn.Module, height: int, width: int) -> bytes:
    """The deployable graph of `model` for one `height` x `width` image, fp32, as ONNX bytes."""
    return exported(DeployGraph(model), height, width)


def exported(deployable: nn.Module, height: int, width: int) -> bytes:
    """A graph with the inputs and outputs of a bundle's as ONNX bytes, fp32.

    Raises UserError for weights that are not finite.
    """
    deployable = deployable.eval()
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The scripting exporter needs no extra package and folds BatchNorm; its notice is noise.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            deployable,
            (image,),
            buffer,  # type: ignore[arg-type]
            input_names=["image"],
            output_names=["boxes", "scores", "labels", "drivable", "lane"],
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnx.load_model_from_string(buffer.getvalue())
    # The exporter loses sight of sizes behind some operators; all of them are fixed.
    with torch.no_grad():
        answers = deployable(image)
    for output, answer in zip(graph.graph.output, answers, strict=True):
        shape = output.type.tensor_type.shape
        del shape.dim[:]
        for size in answer.shape:
            shape.dim.add().dim_value = size
    onnx.checker.check_model(graph, full_check=True)
    for tensor in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(f"the network holds NaN or infinite weights ({tensor.name})")
    return graph.SerializeToString()


def network_of(graph: bytes, precision: Precision) -> Network:
    """An exported graph as engines take it; sizes are read from its input and outputs."""
    found = onnx.load_model_from_string(graph).graph
    shapes = {
        value.name: [one.dim_value for one in value.type.tensor_type.shape.dim]
        for value in (*found.input, *found.output)
    }
    _, height, width, _ = shapes["image"]
    _, count = shapes.get("scores", (1, 0))
    tasks = tuple(task for task in TASKS if shapes.keys() >= {*OUTPUTS[task]})
    return Network(graph, precision, height, width, count, tasks)


def deployed(model: nn.Module, height: int, width: int) -> Network:
    """`model` in fp32 as engines take it, for one `height` x `width` image."""
    return network_of(onnx_graph(model, height, width), "fp32")


def export_bundle(
    checkpoint: Path,
    out: Path,
    thresholds: Thresholds,
    accuracy: dict[str, Any] | None,
    name: str | None = None,
    thresholds_chosen_on: str | None = None,
) -> Manifest:
    """Export a checkpoint as a bundle with one fp32 variant; returns the manifest written.

    `accuracy` and `thresholds_chosen_on` are recorded as given; `name` defaults to that of
    `out`: many networks are of one architecture.

    The golden self-test values are measured by running the exported graph itself.
    Raises UserError when the checkpoint does not load or holds non-finite weights.
    """
    spec, model = load_spec(checkpoint), load_checkpoint(checkpoint)
    network = deployed(model, spec.height, spec.width)
    file = "model.onnx"
    engine = load_engine(network, "onnxruntime")
    golden = measure_self_test(run_self_test(engine))
    engine.close()
    manifest = Manifest(
        name=name or out.stem,
        version=__version__,
        variants={
            "fp32": Variant(
                file=file,
                sha256=sha256_hex(network.model),
                precision="fp32",
                engines=["tensorrt", "openvino", "onnxruntime"],
                accuracy=accuracy,
            )
        },
        input=InputSpec(height=spec.height, width=spec.width, fit=spec.fit),
        classes=spec.classes,
        labels=spec.class_map if spec.labels else None,
        thresholds=thresholds,
        thresholds_chosen_on=thresholds_chosen_on,
        max_detections=network.max_detections,
        params=count_parameters(model),
        gmacs=round(count_gmacs(model, spec.height, spec.width), 3),
        training=Training(data=spec.data, licence=spec.licence),
        lineage=[
            *map(lineage_step, spec.lineage),
            LineageStep(
                step="export",
                detail="fp32 ONNX with post-processing inside the graph; the weights' sha256",
                sha256=sha256_hex((checkpoint / WEIGHTS_FILE).read_bytes()),
                accuracy=accuracy,
            ),
        ],
        opset=OPSET,
        exporter={"torch": torch.__version__, "onnx": onnx.__version__},
        self_test={"fp32": golden},
    )
    write_bundle(out, manifest, {file: network.model})
    return manifest


def lineage_step(line: str) -> LineageStep:
    """A line of a checkpoint's lineage as a manifest has it."""
    if line.startswith(("pruned to", "cut by")):
        return LineageStep(step="prune", detail=line)
    return LineageStep(step="distill" if ", taught by " in line else "train", detail=line)

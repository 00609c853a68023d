"""What the query decoder promises its users: layers, gradients, precision, export."""

import copy
from itertools import pairwise

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from offline_compress.export import MAX_DETECTIONS, DeployGraph, best, onnx_graph
from offline_compress.models.decoder import QueryDecoder, QueryDetections
from offline_compress.models.network import NetworkOutput
from support.decoder_rig import (
    CLASSES,
    SIZE,
    WIDTH,
    decoder,
    in_training,
    lively,
    pyramid,
    two_images,
)


def test_evaluation_gives_the_last_training_layer_and_nothing_else() -> None:
    ours = decoder(layers=3)
    ours.eval()
    quiet = ours(pyramid(), SIZE)
    assert quiet.auxiliary == []
    assert quiet.denoising is None
    in_training(ours)
    loud = ours(pyramid(), SIZE)
    assert len(loud.auxiliary) == 3
    torch.testing.assert_close(quiet.logits, loud.logits)
    torch.testing.assert_close(quiet.boxes, loud.boxes)


def test_the_last_layers_can_be_dropped() -> None:
    ours = decoder(layers=3).eval()
    two = copy.deepcopy(ours)
    for modules in (two.layers, two.score_heads, two.box_heads):
        del modules[2]
    in_training(ours)
    middle = ours(pyramid(), SIZE).auxiliary[-1]
    torch.testing.assert_close(two(pyramid(), SIZE).boxes, middle.boxes)
    torch.testing.assert_close(two(pyramid(), SIZE).logits, middle.logits)


def test_a_pyramid_with_fewer_cells_than_queries() -> None:
    ours = QueryDecoder(WIDTH, 1, 1, 300, heads=4).eval()
    assert ours(pyramid(size=(32, 64)), (32, 64)).boxes.shape == (2, 32 + 8 + 2, 4)


def test_each_layer_also_trains_the_step_before_and_no_further() -> None:
    ours = decoder(layers=3).train()
    ours(pyramid(), SIZE).boxes.sum().backward()
    reached = [head[-1].weight.grad is not None for head in ours.box_heads]  # type: ignore[index]
    assert reached == [False, True, True]
    assert ours.proposal_box[-1].weight.grad is None
    assert ours.project[0][0].weight.grad.abs().sum() > 0  # type: ignore[index,union-attr]


def test_bfloat16_autocast_keeps_boxes_and_scores_in_float32() -> None:
    ours = in_training(decoder())
    labels = two_images()
    torch.manual_seed(0)
    exact = ours(pyramid(), SIZE, labels)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = ours(pyramid(), SIZE, labels)
    assert rough.boxes.dtype == rough.logits.dtype == torch.float32
    assert exact.denoising
    assert rough.denoising
    # The queries themselves may be others: near-equal scores round to equal ones.
    difference = exact.denoising.layers[-1].boxes - rough.denoising.layers[-1].boxes
    assert difference.abs().median() < 0.5
    (rough.boxes.sum() + rough.logits.sum()).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in ours.parameters())


def test_float16_weights() -> None:
    ours = decoder().eval()
    with torch.no_grad():
        exact = ours(pyramid(), SIZE)
        half = ours.half()([level.half() for level in pyramid()], SIZE)
    nearest = torch.cdist(half.boxes, exact.boxes, p=float("inf")).amin(-1)
    assert nearest.median() < 0.5


class TinyNetwork(nn.Module):
    """A decoder on strided convolutions: as little as can be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList(nn.Conv2d(3, WIDTH, s, s) for s in (8, 16, 32))
        self.decoder = QueryDecoder(WIDTH, CLASSES, 2, 120, heads=4, ffn=48)
        self.mask = nn.Conv2d(3, 2, 1)

    def forward(self, image: torch.Tensor) -> NetworkOutput:
        masks = self.mask(image)
        levels = [stem(image) for stem in self.stem]
        found = self.decoder(levels, (image.shape[2], image.shape[3]))
        return NetworkOutput(found, masks[:, 0], masks[:, 1], {})


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made = TinyNetwork()
    lively(made)
    return made.eval()


@pytest.mark.parametrize("size", [(128, 192), (160, 96)])
def test_the_exported_graph_computes_what_the_network_computes(
    network: nn.Module, size: tuple[int, int]
) -> None:
    graph = onnx_graph(network, *size)
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    with torch.no_grad():
        expected = [t.numpy() for t in DeployGraph(network)(torch.from_numpy(image))]
    assert expected[0].shape == (1, MAX_DETECTIONS, 4)
    assert expected[2].dtype == np.int32
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for got in (session.run(None, {"image": image}), list(compiled([image]).values())):
        np.testing.assert_allclose(got[1], expected[1], atol=1e-4)
        assert (np.diff(got[1]) <= 0).all()  # exactly: the engines' self-test insists
        # Scores that are equal but for rounding may swap places: compare as sets.
        distance = np.abs(got[0][0][:, None] - expected[0][0][None]).max(-1)
        assert (distance.min(1) < 0.05).mean() > 0.95
        assert got[2].dtype == np.int32
        for mask, other in zip(got[3:], expected[3:], strict=True):
            assert np.abs(mask.astype(int) - other).max() <= 1


def test_deployed_detections_are_sorted_clipped_and_not_suppressed() -> None:
    logits = torch.tensor([[[0.1, -3.0], [-2.0, 2.0], [0.1, 0.0]]])
    boxes = torch.tensor([[[-5.0, 10, 20, 30], [60, 50, 200, 90], [-5, 10, 20, 30]]])
    found = QueryDetections(logits, boxes, [], None)
    got, scores, labels = best(found, 100, torch.zeros(1, *SIZE))
    assert labels.tolist() == [[1, 0, 0]]
    assert scores[0].tolist() == pytest.approx([0.880797, 0.524979, 0.524979])
    assert got[0].tolist() == [[60, 50, 96, 64], [0, 10, 20, 30], [0, 10, 20, 30]]
    assert all(a >= b for a, b in pairwise(scores[0].tolist()))

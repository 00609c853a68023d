"""The query decoder against slow and independent references, and what it promises its users."""

import copy
import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from offline_compress.export import MAX_DETECTIONS, DeployGraph, best, onnx_graph
from offline_compress.losses.targets import Targets
from offline_compress.models.decoder import QueryDecoder, QueryDetections
from offline_compress.models.deformable import DeformableAttention
from offline_compress.models.denoising import DENOISING_QUERIES, denoising_queries
from offline_compress.models.network import NetworkOutput

SIZE = (64, 96)
WIDTH, CLASSES, QUERIES = 32, 2, 20


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads and wait for them on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pyramid(seed: int = 0, images: int = 2, size: tuple[int, int] = SIZE) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, WIDTH, size[0] // s, size[1] // s, generator=generator)
        for s in (8, 16, 32)
    ]


def lively(module: nn.Module, seed: int = 1) -> None:
    """Random weights everywhere: as initialised, much of a decoder is zero or symmetric."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.5 / math.sqrt(parameter.shape[-1]) if parameter.ndim > 1 else 0.3
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                child.running_mean.normal_(0, 0.2, generator=generator)  # type: ignore[union-attr]
                child.running_var.uniform_(0.5, 2.0, generator=generator)  # type: ignore[union-attr]


def decoder(layers: int = 2, seed: int = 1) -> QueryDecoder:
    torch.manual_seed(seed)
    made = QueryDecoder(WIDTH, CLASSES, layers, QUERIES, heads=4, points=3, ffn=48)
    lively(made, seed)
    return made


def in_training(made: QueryDecoder) -> QueryDecoder:
    """In training mode but for BatchNorm, so that outputs compare with those of evaluation."""
    made.train()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return made


def targets(
    boxes: list[list[list[float]]], kinds: list[list[int]], labelled: list[bool]
) -> Targets:
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.uint8)
    return Targets(
        torch.tensor(boxes).float().reshape(len(boxes), -1, 4),
        torch.tensor(kinds, dtype=torch.int64).reshape(len(boxes), -1),
        torch.tensor(labelled),
        masks,
        masks,
    )


def two_images() -> Targets:
    """Two vehicles and an ignore region between them in one image, one vehicle in the other."""
    return targets(
        [
            [[4, 4, 30, 24], [0, 0, 96, 10], [50, 20, 90, 60]],
            [[10, 30, 40, 60], [0, 0, 0, 0], [0, 0, 0, 0]],
        ],
        [[0, -2, 1], [1, -1, -1]],
        [True, True],
    )


def slow_bilinear(level: np.ndarray, x: float, y: float) -> np.ndarray:
    """Value of [C, H, W] at the point (x, y), both fractions of the map; nothing outside."""
    _, height, width = level.shape
    column, row = x * width - 0.5, y * height - 0.5
    value = np.zeros(len(level))
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < height and 0 <= c < width:
                value += level[:, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return value


def test_deformable_attention_matches_a_loop_over_points() -> None:
    heads, levels, points, head_width = 2, 3, 3, 4
    width = heads * head_width
    torch.manual_seed(0)
    attention = DeformableAttention(width, heads, levels, points)
    lively(attention)
    shapes = [(6, 9), (3, 5), (2, 2)]
    memory = torch.randn(2, sum(h * w for h, w in shapes), width)
    query, boxes = torch.randn(2, 5, width), torch.rand(2, 5, 4)
    with torch.no_grad():
        got = attention(query, boxes, memory, shapes).numpy()
        value = attention.value(memory).numpy()
        offset = attention.offsets(query).reshape(2, 5, heads, levels, points, 2).numpy()
        weight = attention.weights(query).reshape(2, 5, heads, levels * points).softmax(-1)
    weight = weight.reshape(2, 5, heads, levels, points).numpy()
    starts = np.cumsum([0] + [h * w for h, w in shapes])
    read = np.zeros((2, 5, width))
    for n, q, h, level, p in np.ndindex(2, 5, heads, levels, points):
        cx, cy, w, tall = boxes[n, q].tolist()
        dx, dy = offset[n, q, h, level, p]
        cells = value[n, starts[level] : starts[level + 1]].reshape(*shapes[level], width)
        mine = cells[:, :, h * head_width : (h + 1) * head_width].transpose(2, 0, 1)
        point = slow_bilinear(mine, cx + dx / points * w / 2, cy + dy / points * tall / 2)
        read[n, q, h * head_width : (h + 1) * head_width] += weight[n, q, h, level, p] * point
    with torch.no_grad():
        expected = attention.out(torch.from_numpy(read).float()).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


def reference_model() -> nn.Module:
    """transformers' RT-DETR of the same shape as `decoder()`, random weights."""
    from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

    config = RTDetrV2Config(
        backbone_config=RTDetrResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic"
        ),
        encoder_in_channels=[8, 8, 8],
        encoder_hidden_dim=WIDTH,
        encoder_ffn_dim=16,
        encoder_attention_heads=4,
        decoder_in_channels=[WIDTH] * 3,
        d_model=WIDTH,
        decoder_ffn_dim=48,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_n_points=3,
        num_queries=QUERIES,
        num_labels=CLASSES,
        num_denoising=0,
        anchor_image_size=None,
        disable_custom_kernels=True,
    )
    return RTDetrV2ForObjectDetection(config)


def copy_weights(model: nn.Module, ours: QueryDecoder) -> None:
    """Weights of `ours` into transformers' modules, which split what we keep together."""

    def put(target: nn.Module, source: nn.Module) -> None:
        target.load_state_dict(source.state_dict())

    def put_perceptron(target: nn.Module, source: nn.Module) -> None:
        linear = [m for m in source if isinstance(m, nn.Linear)]  # type: ignore[attr-defined]
        for theirs, mine in zip(target.layers, linear, strict=True):  # type: ignore[arg-type]
            put(theirs, mine)

    theirs = model.model
    for level, project in enumerate(ours.project):
        put(theirs.decoder_input_proj[level][0], project[0])  # type: ignore[index,union-attr]
        put(theirs.decoder_input_proj[level][1], project[1])  # type: ignore[index,union-attr]
    put(theirs.enc_output[0], ours.propose[0])
    put(theirs.enc_output[1], ours.propose[1])
    put(theirs.enc_score_head, ours.proposal_score)
    put_perceptron(theirs.enc_bbox_head, ours.proposal_box)
    put_perceptron(theirs.decoder.query_pos_head, ours.position)
    for index, layer in enumerate(ours.layers):
        other = theirs.decoder.layers[index]
        weights, biases = layer.self_attention.in_proj_weight, layer.self_attention.in_proj_bias
        for name, weight, bias in zip(
            ("q_proj", "k_proj", "v_proj"), weights.chunk(3), biases.chunk(3), strict=True
        ):
            projection = getattr(other.self_attn, name)
            projection.load_state_dict({"weight": weight, "bias": bias})
        put(other.self_attn.o_proj, layer.self_attention.out_proj)
        put(other.encoder_attn.sampling_offsets, layer.cross_attention.offsets)
        put(other.encoder_attn.attention_weights, layer.cross_attention.weights)
        put(other.encoder_attn.value_proj, layer.cross_attention.value)
        put(other.encoder_attn.output_proj, layer.cross_attention.out)
        put(other.mlp.fc1, layer.feed_forward[0])
        put(other.mlp.fc2, layer.feed_forward[2])
        put(other.self_attn_layer_norm, layer.self_norm)
        put(other.encoder_attn_layer_norm, layer.cross_norm)
        put(other.final_layer_norm, layer.feed_norm)
        put(theirs.decoder.class_embed[index], ours.score_heads[index])
        put_perceptron(theirs.decoder.bbox_embed[index], ours.box_heads[index])


def as_pixels(boxes: torch.Tensor) -> torch.Tensor:
    """Centre x, y, width, height in fractions -> corners in pixels."""
    scale = torch.tensor([SIZE[1], SIZE[0]])
    centre, extent = boxes[..., :2] * scale, boxes[..., 2:] * scale
    return torch.cat((centre - extent / 2, centre + extent / 2), -1)


def test_every_layer_matches_transformers() -> None:
    from transformers.modeling_outputs import BaseModelOutput

    ours, model = decoder(), reference_model()
    copy_weights(model, ours)
    model.eval()
    in_training(ours)  # for the auxiliary outputs
    features = pyramid()
    with torch.no_grad():
        got = ours(features, SIZE)
        expected = model(
            pixel_values=None,
            inputs_embeds=torch.zeros(2, 1),
            encoder_outputs=BaseModelOutput(last_hidden_state=features),
        )
    assert len(got.auxiliary) == 2
    pairs = [
        (got.auxiliary[0].logits, expected.enc_topk_logits),
        (got.auxiliary[0].boxes, as_pixels(expected.enc_topk_bboxes)),
        (got.auxiliary[1].logits, expected.intermediate_logits[:, 0]),
        (got.auxiliary[1].boxes, as_pixels(expected.intermediate_reference_points[:, 0])),
        (got.logits, expected.logits),
        (got.boxes, as_pixels(expected.pred_boxes)),
    ]
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    assert got.boxes.std() > 5  # not one and the same box throughout


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


def test_real_queries_do_not_notice_the_denoising_ones() -> None:
    ours = in_training(decoder())
    alone, beside = ours(pyramid(), SIZE), ours(pyramid(), SIZE, two_images())
    assert alone.denoising is None
    assert beside.denoising is not None
    torch.testing.assert_close(alone.logits, beside.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone.boxes, beside.boxes, atol=1e-3, rtol=1e-5)


def test_denoising_groups_do_not_see_each_other() -> None:
    made = denoising_queries(two_images(), SIZE, CLASSES)
    noised = made.box.shape[1]
    blocked = made.blocked(QUERIES)
    assert blocked.shape == (noised + QUERIES, noised + QUERIES)
    assert blocked[noised:, :noised].all()
    assert not blocked[noised:, noised:].any()
    assert not blocked[:noised, noised:].any()
    group = noised // made.groups
    for row in range(noised):
        seen = torch.nonzero(~blocked[row, :noised]).flatten().tolist()
        assert seen == list(range(row // group * group, (row // group + 1) * group))


def test_denoising_queries_are_noised_copies_of_the_labelled_boxes() -> None:
    labels = two_images()
    torch.manual_seed(3)
    made = denoising_queries(labels, SIZE, CLASSES)
    assert made.groups == DENOISING_QUERIES // 2
    assert made.box[0].unique().tolist() == [-1, 0, 2]  # row 1 is an ignore region
    assert made.box[1].unique().tolist() == [-1, 0]
    # Half of the second image's queries pad it to the first image's two boxes.
    assert made.used[0].all()
    assert made.used[1].float().mean() == 0.5
    assert (made.classes[~made.used] == CLASSES).all()
    scale = torch.tensor([SIZE[1], SIZE[0]] * 2)
    boxes = made.box_logits.sigmoid()
    corners = torch.cat(
        (boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2), -1
    )
    corners = corners * scale
    for image, query in (made.box >= 0).nonzero().tolist():
        wanted = labels.boxes[image, made.box[image, query]]
        half = (wanted[2:] - wanted[:2]).repeat(2) / 2
        assert ((corners[image, query] - wanted).abs() <= half + 0.01).all()
    right = made.classes == labels.kinds.gather(1, made.box.clamp(min=0))
    # A quarter is drawn anew, half of which by chance come out right.
    assert right[made.box >= 0].float().mean() == pytest.approx(1 - 0.25 / CLASSES, abs=0.06)


@pytest.mark.parametrize(
    "labels",
    [
        targets([[], []], [[], []], [True, True]),
        targets([[[0.0] * 4], [[5, 5, 20, 20]]], [[-1], [0]], [True, False]),
        targets([[[0, 0, 30, 30]], [[0.0] * 4]], [[-2], [-1]], [True, True]),
    ],
    ids=["no rows", "unlabelled", "only ignored"],
)
def test_batches_without_boxes_have_unused_denoising_queries(labels: Targets) -> None:
    made = denoising_queries(labels, SIZE, CLASSES)
    assert not made.used.any()
    assert (made.box == -1).all()
    found = decoder().train()(pyramid(), SIZE, labels)
    assert found.boxes.shape == (2, QUERIES, 4)
    assert torch.isfinite(found.boxes).all()


def test_more_boxes_than_denoising_queries() -> None:
    crowd = [[[float(i % 60), float(i % 40), i % 60 + 8.0, i % 40 + 8.0] for i in range(130)]]
    made = denoising_queries(targets(crowd, [[0] * 130], [True]), SIZE, CLASSES)
    assert made.groups == 1
    assert made.box.shape == (1, 260)


def test_the_seed_decides() -> None:
    def run(seed: int) -> QueryDetections:
        ours = decoder().train()
        torch.manual_seed(seed)
        return ours(pyramid(), SIZE, two_images())

    first, again, other = run(0), run(0), run(1)
    assert first.denoising
    assert again.denoising
    assert other.denoising
    assert torch.equal(first.denoising.layers[0].boxes, again.denoising.layers[0].boxes)
    assert not torch.equal(first.denoising.layers[0].boxes, other.denoising.layers[0].boxes)


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

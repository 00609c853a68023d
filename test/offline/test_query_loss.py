"""Matching and the loss of query detections against brute force and independent formulas."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_compress.data.targets import Targets
from offline_compress.losses.boxes import box_iou
from offline_compress.losses.mask_losses import drivable_loss, lane_loss
from offline_compress.losses.matching import match, matching_cost
from offline_compress.losses.query import query_loss, set_loss
from offline_compress.losses.task_losses import MASK_WEIGHT, QUERY_WEIGHT, task_losses
from offline_compress.models.decoder import (
    DenoisedDetections,
    LayerDetections,
    QueryDecoder,
    QueryDetections,
)
from offline_compress.models.denoising import denoising_queries
from offline_compress.models.network import NetworkOutput

SIZE = (64, 96)
CLASSES = 2


def targets(
    boxes: list[list[list[float]]], kinds: list[list[int]], labelled: list[bool]
) -> Targets:
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.uint8)
    return Targets(
        torch.tensor(boxes).float(), torch.tensor(kinds), torch.tensor(labelled), masks, masks
    )


def random_boxes(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """[..., 4] inside the image."""
    scale = torch.tensor([SIZE[1], SIZE[0]])
    corners = torch.rand(*shape, 2, 2, generator=generator) * scale
    return torch.cat((corners.amin(-2), corners.amax(-2) + 2), -1)


def random_layers(seed: int, layers: int, images: int, queries: int) -> list[LayerDetections]:
    generator = torch.Generator().manual_seed(seed)
    return [
        LayerDetections(
            torch.randn(images, queries, CLASSES, generator=generator),
            random_boxes(generator, images, queries),
        )
        for _ in range(layers)
    ]


def random_targets(seed: int) -> Targets:
    """Three images with 3, 1 and 0 vehicles."""
    generator = torch.Generator().manual_seed(100 + seed)
    boxes = random_boxes(generator, 3, 3)
    kinds = torch.tensor([[0, 1, 0], [1, -1, -1], [-1, -1, -1]])
    boxes = boxes * (kinds >= 0)[..., None]
    masks = torch.zeros(3, *SIZE, dtype=torch.uint8)
    return Targets(boxes, kinds, torch.ones(3, dtype=torch.bool), masks, masks)


def as_query_detections(layers: list[LayerDetections]) -> QueryDetections:
    return QueryDetections(layers[-1].logits, layers[-1].boxes, layers[:-1], None)


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_matching_is_the_cheapest_of_all_permutations(seed: int, count: int, queries: int) -> None:
    layer = random_layers(seed, 1, 1, queries)[0]
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(CLASSES, (count,), generator=generator).tolist()
    wanted = targets([random_boxes(generator, count).tolist()], [kinds], [True])
    pair = layer.logits[None], layer.boxes[None]
    owner = match(*pair, wanted)[0, 0]
    cost = matching_cost(*pair, wanted)[0, 0].tolist()
    pairs = min(count, queries)
    cheapest = min(
        sum(cost[q][m] for q, m in zip(chosen, boxes, strict=True))
        for chosen in itertools.combinations(range(queries), pairs)
        for boxes in itertools.permutations(range(count), pairs)
    )
    matched = [(q, int(m)) for q, m in enumerate(owner) if m >= 0]
    assert len({m for _, m in matched}) == len(matched) == pairs
    assert sum(cost[q][m] for q, m in matched) == pytest.approx(cheapest, abs=1e-4)


def test_cost_of_one_pair_by_hand() -> None:
    wanted = targets([[[0, 0, 48, 32]]], [[1]], [True])
    cost = matching_cost(
        torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[24.0, 0, 72, 32]]]]), wanted
    )
    classify = (0.25 - 0.75) * 0.5**2 * math.log(2)
    distance = 0.25  # the centre moved by a quarter of the image's width
    giou = 1 / 3 - 0  # the hull is the union
    assert cost.item() == pytest.approx(2 * classify + 5 * distance - 2 * giou, abs=1e-5)


def test_matching_passes_over_padding_ignore_regions_and_unlabelled_images() -> None:
    box = [10.0, 10.0, 40.0, 40.0]
    wanted = targets(
        [[box, box, [0.0] * 4], [box, box, box], [[0.0] * 4] * 3],
        [[-2, 1, -1], [0, 0, 0], [-1, -1, -1]],
        [True, False, True],
    )
    layers = random_layers(0, 2, 3, 6)
    owner = match(
        torch.stack([d.logits for d in layers]), torch.stack([d.boxes for d in layers]), wanted
    )
    for layer in owner:
        assert sorted(layer[0].tolist()) == [-1] * 5 + [1]
        assert (layer[1:] == -1).all()


def test_predictions_that_are_no_numbers_do_not_stop_the_matching() -> None:
    layer = random_layers(0, 1, 1, 4)[0]
    layer.boxes[0, 0], layer.logits[0, 1] = float("nan"), float("inf")
    layer.logits[0, 2] = float("nan")
    wanted = targets([[[10, 10, 40, 40]]], [[0]], [True])
    owner = match(layer.logits[None], layer.boxes[None], wanted)
    assert sorted(owner.flatten().tolist()) == [-1, -1, -1, 0]
    assert owner[0, 0, 0] == owner[0, 0, 2] == -1


def reference_loss(found: QueryDetections, wanted: Targets) -> float:
    """transformers' RT-DETR loss, which knows neither ignore regions nor partial labels."""
    from transformers import RTDetrV2Config
    from transformers.loss.loss_rt_detr import RTDetrLoss

    scale = torch.tensor([SIZE[1], SIZE[0]] * 2)

    def fractions(boxes: torch.Tensor) -> torch.Tensor:
        x1, y1, x2, y2 = (boxes / scale).unbind(-1)
        return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), -1)

    def as_dicts(layers: list[LayerDetections]) -> list[dict[str, torch.Tensor]]:
        return [{"logits": d.logits, "pred_boxes": fractions(d.boxes)} for d in layers]

    outputs = {
        **as_dicts([LayerDetections(found.logits, found.boxes)])[0],
        "auxiliary_outputs": as_dicts(found.auxiliary),
    }
    if found.denoising is not None:
        queries = found.denoising.queries
        outputs["dn_auxiliary_outputs"] = as_dicts(found.denoising.layers)
        outputs["denoising_meta_values"] = {
            "dn_positive_idx": [row.nonzero()[:, 0] for row in queries.box >= 0],
            "dn_num_group": queries.groups,
        }
    labels = [
        {"class_labels": kinds[kinds >= 0], "boxes": fractions(boxes[kinds >= 0])}
        for kinds, boxes in zip(wanted.kinds, wanted.boxes, strict=True)
    ]
    criterion = RTDetrLoss(RTDetrV2Config(num_labels=CLASSES, weight_loss_vfl=1.0))
    return sum(value.item() for value in criterion(outputs, labels).values())


@pytest.mark.parametrize("seed", range(3))
def test_loss_matches_transformers(seed: int) -> None:
    found, wanted = as_query_detections(random_layers(seed, 3, 3, 8)), random_targets(seed)
    assert query_loss(found, wanted).item() == pytest.approx(
        reference_loss(found, wanted), rel=1e-4
    )


def test_denoising_loss_matches_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(generator, 2, 3)  # as many boxes in each image: no padding to differ by
    masks = torch.zeros(2, *SIZE, dtype=torch.uint8)
    kinds = torch.tensor([[0, 1, 1], [0, 0, 1]])
    wanted = Targets(boxes, kinds, torch.ones(2, dtype=torch.bool), masks, masks)
    layers = random_layers(1, 3, 2, 8)
    queries = denoising_queries(wanted, SIZE, CLASSES)
    noised = DenoisedDetections(queries, random_layers(2, 2, 2, queries.box.shape[1]))
    found = QueryDetections(layers[-1].logits, layers[-1].boxes, layers[:-1], noised)
    assert query_loss(found, wanted).item() == pytest.approx(
        reference_loss(found, wanted), rel=1e-4
    )


def test_loss_of_two_queries_by_hand() -> None:
    """One query on half of a box, one on nothing."""
    wanted = targets([[[0, 0, 48, 32]]], [[0]], [True])
    logits = torch.tensor([[[0.0, -30.0], [1.0, -30.0]]])
    boxes = torch.tensor([[[0.0, 0, 24, 32], [60, 40, 90, 60]]])
    found = QueryDetections(logits, boxes, [], None)
    matched = -0.5 * math.log(0.5)  # weight 0.5 = IoU, cross-entropy of 0.5 at 0.5
    p = 1 / (1 + math.exp(-1))
    unmatched = 0.75 * p**2 * -math.log(1 - p)
    distance = (12 + 24) / 96
    expected = matched + unmatched + 5 * distance + 2 * (1 - 0.5)
    assert query_loss(found, wanted).item() == pytest.approx(expected, rel=1e-5)


def test_unlabelled_images_contribute_nothing() -> None:
    labels = random_targets(0)
    part = Targets(
        labels.boxes,
        labels.kinds,
        torch.tensor([True, False, True]),
        labels.drivable,
        labels.lane,
    )
    layers = random_layers(0, 2, 3, 8)
    for layer in layers:
        layer.logits.requires_grad_()
        layer.boxes.requires_grad_()
    query_loss(as_query_detections(layers), part).backward()
    for layer in layers:
        for gradient in (layer.logits.grad, layer.boxes.grad):
            assert gradient is not None
            assert not gradient[1].any()
            assert gradient[0].any()
        assert layer.logits.grad is not None
        assert layer.logits.grad[2].any()  # labelled and empty: all its queries are wrong


def test_without_any_labelled_image_the_loss_is_zero_and_has_gradients() -> None:
    labels = random_targets(0)
    none = Targets(
        labels.boxes, labels.kinds, torch.zeros(3, dtype=torch.bool), labels.drivable, labels.lane
    )
    layer = random_layers(0, 1, 3, 8)[0]
    layer.logits.requires_grad_()
    loss = query_loss(as_query_detections([layer]), none)
    loss.backward()
    assert loss.item() == 0
    assert layer.logits.grad is not None
    assert not layer.logits.grad.any()


def test_predictions_in_ignore_regions_are_no_negatives() -> None:
    region, vehicle = [10.0, 10.0, 50.0, 50.0], [60.0, 10.0, 80.0, 30.0]
    wanted = targets([[region, vehicle]], [[-2, 0]], [True])
    boxes = torch.tensor(
        [
            [
                [20.0, 20, 40, 40],  # inside
                [0, 0, 80, 64],  # centred in it, though mostly outside
                [0, 30, 16, 60],  # merely touching
                [44, 24, 54, 40],  # mostly covered
                [60, 10, 80, 30],  # the vehicle
            ]
        ]
    )
    logits = torch.zeros(1, 5, CLASSES, requires_grad=True)
    query_loss(QueryDetections(logits, boxes, [], None), wanted).backward()
    assert logits.grad is not None
    assert logits.grad[0].any(-1).tolist() == [False, False, True, False, True]


def test_a_match_inside_an_ignore_region_still_counts() -> None:
    wanted = targets([[[0.0, 0, 96, 64], [20, 20, 40, 40]]], [[-2, 1]], [True])
    boxes = torch.tensor([[[21.0, 20, 40, 40], [60, 20, 80, 40]]])
    logits = torch.zeros(1, 2, CLASSES, requires_grad=True)
    query_loss(QueryDetections(logits, boxes, [], None), wanted).backward()
    assert logits.grad is not None
    assert logits.grad[0].any(-1).tolist() == [True, False]


def test_quality_is_the_overlap_and_no_way_to_learn_boxes() -> None:
    """The classification target does not send gradients into the boxes."""
    wanted = targets([[[10, 10, 40, 40]]], [[0]], [True])
    boxes = torch.tensor([[[[12.0, 10, 42, 40]]]], requires_grad=True)
    logits = torch.zeros(1, 1, 1, CLASSES, requires_grad=True)
    owner = torch.zeros(1, 1, 1, dtype=torch.int64)
    set_loss(logits, boxes, owner, torch.ones(1, 1, dtype=torch.bool), wanted).backward()
    quality = box_iou(boxes.detach()[0, 0, 0], wanted.boxes[0, 0]).item()
    assert logits.grad is not None
    assert logits.grad[0, 0, 0, 0].item() == pytest.approx(quality * (0.5 - quality), rel=1e-5)
    first = boxes.grad
    boxes.grad = None
    set_loss(logits + 3, boxes, owner, torch.ones(1, 1, dtype=torch.bool), wanted).backward()
    assert first is not None
    assert boxes.grad is not None
    torch.testing.assert_close(first, boxes.grad)


@pytest.mark.slow
def test_a_decoder_learns_the_vehicles_it_is_shown() -> None:
    torch.manual_seed(0)
    wanted = targets(
        [
            [[4, 4, 30, 24], [0, 0, 96, 10], [50, 20, 90, 60]],
            [[10, 30, 40, 60], [0, 0, 0, 0], [0, 0, 0, 0]],
        ],
        [[0, -2, 1], [1, -1, -1]],
        [True, True],
    )
    pyramid = [torch.randn(2, 32, SIZE[0] // s, SIZE[1] // s) for s in (8, 16, 32)]
    decoder = QueryDecoder(32, CLASSES, layers=2, queries=20, heads=4, points=3, ffn=48)
    optimizer = torch.optim.AdamW(decoder.parameters(), 2e-3)
    for _ in range(120):
        loss = query_loss(decoder(pyramid, SIZE, wanted), wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
    decoder.eval()
    with torch.no_grad():
        found = decoder(pyramid, SIZE)
    for image in range(2):
        real = wanted.kinds[image] >= 0
        scores, kinds = found.logits[image].sigmoid().max(-1)
        best = scores.topk(int(real.sum())).indices
        overlap = box_iou(found.boxes[image, best][:, None], wanted.boxes[image, real])
        assert overlap.amax(0).min() > 0.75  # every vehicle, and none of them twice
        assert (kinds[best] == wanted.kinds[image, real][overlap.argmax(1)]).all()
        assert scores.sort(descending=True).values[int(real.sum())] < scores[best].min() - 0.2


def test_tasks_are_weighted_by_their_kinds_of_loss() -> None:
    found, wanted = as_query_detections(random_layers(0, 2, 3, 8)), random_targets(0)
    generator = torch.Generator().manual_seed(0)
    drivable, lane = torch.randn(2, 3, *SIZE, generator=generator)
    output = NetworkOutput(found, drivable, lane, {})
    query = query_loss(found, wanted)
    for kind, weight in MASK_WEIGHT.items():
        losses = task_losses(output, wanted, kind)
        assert torch.equal(losses.detection, QUERY_WEIGHT * query)
        assert torch.equal(losses.drivable, weight * drivable_loss(drivable, wanted.drivable, kind))
        assert torch.equal(losses.lane, weight * lane_loss(lane, wanted.lane, kind))
        assert losses.total() == losses.detection + losses.drivable + losses.lane
    assert MASK_WEIGHT["focal"] == QUERY_WEIGHT  # RMT-PPAD's own proportions

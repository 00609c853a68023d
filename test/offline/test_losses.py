"""The losses against independent, slow references."""

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_compress.data.targets import IGNORE, Targets
from offline_compress.losses.boxes import box_iou, generalised_iou
from offline_compress.losses.dense import assign, detection_loss
from offline_compress.losses.mask_losses import (
    MaskLoss,
    cross_entropy,
    drivable_loss,
    focal_loss,
    lane_loss,
    tversky_loss,
)
from offline_compress.models.heads import DenseDetections


def slow_iou_and_giou(a: list[float], b: list[float]) -> tuple[float, float]:
    """By counting the cells of a fine integer grid: no shared formula with the code tested."""
    grid = np.zeros((2, 64, 64), bool)
    for layer, (x1, y1, x2, y2) in enumerate((a, b)):
        grid[layer, int(y1) : int(y2), int(x1) : int(x2)] = True
    overlap, union = (grid[0] & grid[1]).sum(), (grid[0] | grid[1]).sum()
    ys, xs = np.nonzero(grid.any(0))
    hull = (ys.max() - ys.min() + 1) * (xs.max() - xs.min() + 1)
    return overlap / union, overlap / union - (hull - union) / hull


corner = st.integers(0, 50)
extent = st.integers(1, 13)
box = st.builds(lambda x, y, w, h: [x, y, x + w, y + h], corner, corner, extent, extent)


@given(box, box)
@settings(max_examples=200, deadline=None)
def test_iou_and_giou_match_counting_cells(a: list[float], b: list[float]) -> None:
    first, second = torch.tensor([a]).float(), torch.tensor([b]).float()
    iou, giou = slow_iou_and_giou(a, b)
    assert box_iou(first, second).item() == pytest.approx(iou, abs=1e-5)
    assert generalised_iou(first, second).item() == pytest.approx(giou, abs=1e-5)


def cells(stride: int = 8, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    axis = torch.arange(size // stride) * stride + stride / 2
    ys, xs = torch.meshgrid(axis, axis, indexing="ij")
    centers = torch.stack((xs, ys), -1).reshape(-1, 2).float()
    return centers, torch.full((len(centers),), float(stride))


def predictions(boxes: torch.Tensor, logits: torch.Tensor) -> DenseDetections:
    centers, strides = cells()
    return DenseDetections(logits, boxes, centers, strides)


def targets(boxes: list[list[float]], kinds: list[int], labelled: bool = True) -> Targets:
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    return Targets(
        torch.tensor([boxes]).float(),
        torch.tensor([kinds]),
        torch.tensor([labelled]),
        masks,
        masks,
    )


def random_predictions(seed: int) -> DenseDetections:
    generator = torch.Generator().manual_seed(seed)
    centers, _ = cells()
    half = torch.rand(1, len(centers), 2, generator=generator) * 20 + 2
    boxes = torch.cat((centers - half, centers + half), -1)
    return predictions(boxes, torch.randn(1, len(centers), 1, generator=generator))


@pytest.mark.parametrize("seed", range(5))
def test_assignment_matches_a_loop(seed: int) -> None:
    found = random_predictions(seed)
    wanted = [[4.0, 6.0, 30.0, 33.0], [20.0, 18.0, 50.0, 60.0], [0.0, 0.0, 0.0, 0.0]]
    got = assign(found, targets(wanted, [0, 0, -1]), top_k=4)

    candidates: dict[int, list[tuple[float, int]]] = {}
    centers = found.centers.numpy()
    score = found.logits.sigmoid()[0, :, 0].numpy()
    overlap = np.zeros((2, len(centers)))
    alignment = np.zeros((2, len(centers)))
    for m in range(2):
        x1, y1, x2, y2 = wanted[m]
        for c, (x, y) in enumerate(centers):
            if x1 < x < x2 and y1 < y < y2:
                pair = torch.tensor([wanted[m]]), found.boxes[0, c][None]
                overlap[m, c] = box_iou(*pair).item()
                alignment[m, c] = score[c] ** 0.5 * overlap[m, c] ** 6
        order = np.argsort(-alignment[m], kind="stable")[:4]
        candidates[m] = [(overlap[m, c], int(c)) for c in order if overlap[m, c] > 0]
    owner: dict[int, int] = {}
    for m in range(2):
        for iou, c in candidates[m]:
            if c not in owner or iou > overlap[owner[c], c]:
                owner[c] = m

    assert set(torch.nonzero(got.positive[0]).flatten().tolist()) == set(owner)
    for c, m in owner.items():
        assert got.box[0, c].item() == m
        mine = [k for k, v in owner.items() if v == m]
        peak = max(alignment[m, k] for k in mine)
        best_iou = max(overlap[m, k] for k in mine)
        quality = alignment[m, c] / max(peak, 1e-9) * best_iou
        assert got.quality[0, c].item() == pytest.approx(quality, rel=1e-3, abs=1e-6)


def test_a_vehicle_smaller_than_a_cell_still_has_a_cell() -> None:
    found = random_predictions(0)
    got = assign(found, targets([[17.0, 17.0, 19.5, 19.0]], [0]))
    assert got.positive.any()


@given(st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_every_far_vehicle_has_a_cell_of_its_own(seed: int, vehicles: int) -> None:
    """All in one cell, where untrained predictions overlap nothing and others one box more."""
    rng = np.random.default_rng(seed)
    low = 24 + rng.uniform(0, 6, (vehicles, 2))
    wanted = np.concatenate((low, low + rng.uniform(1, 7, (vehicles, 2))), 1)
    found = random_predictions(seed)
    if seed % 2:
        same = torch.from_numpy(wanted[0]).float().expand(1, len(found.centers), 4)
        found = predictions(same, found.logits)
    got = assign(found, targets(wanted.tolist(), [0] * vehicles))
    owners = got.box[got.positive].tolist()
    assert set(owners) == set(range(vehicles))
    away = (found.centers[got.positive[0]] - torch.tensor(low[owners]).float()).abs().max()
    assert away < 16, "a cell that lies elsewhere"


def test_ignore_regions_are_neither_positive_nor_negative() -> None:
    found = random_predictions(1)
    region = [8.0, 8.0, 40.0, 40.0]
    got = assign(found, targets([region], [-2]))
    inside = ((found.centers > 8) & (found.centers < 40)).all(-1)
    assert not got.positive.any()
    assert torch.equal(got.ignored[0], inside)


def test_an_unlabelled_image_moves_nothing() -> None:
    found = random_predictions(2)
    logits = found.logits.clone().requires_grad_()
    boxes = found.boxes.clone().requires_grad_()
    detection_loss(
        predictions(boxes, logits), targets([[8.0, 8.0, 30.0, 30.0]], [0], labelled=False)
    ).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_perfect_detections_cost_less_than_wrong_ones() -> None:
    wanted = [16.0, 16.0, 40.0, 40.0]  # nine cells: fewer than top_k, so all of them answer
    centers, _ = cells()
    inside = ((centers > 16) & (centers < 40)).all(-1)
    perfect = torch.tensor(wanted).expand(1, len(centers), 4)
    confident = torch.where(inside, 6.0, -6.0)[None, :, None]
    aim = targets([wanted], [0])
    good = detection_loss(predictions(perfect, confident), aim)
    wrong_score = detection_loss(predictions(perfect, -confident), aim)
    wrong_box = detection_loss(predictions(perfect * 0.7, confident), aim)
    assert good < 0.1
    assert wrong_score > good + 0.5
    assert wrong_box > good + 0.5


def masks(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels with ignored rows."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 7, generator=generator)
    target = torch.randint(0, 2, (2, 5, 7), generator=generator).to(torch.uint8)
    target[0, :2] = IGNORE
    return logits, target


def labelled_pixels() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of the labelled pixels of `masks`, in double precision."""
    logits, target = masks()
    use = (target != IGNORE).numpy()
    return 1 / (1 + np.exp(-logits.double().numpy()[use])), target.numpy()[use].astype(float)


def test_cross_entropy_matches_its_definition() -> None:
    p, t = labelled_pixels()
    expected = -np.mean(np.where(t == 1, 3 * np.log(p), np.log(1 - p)))
    assert cross_entropy(*masks(), 3.0).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_matches_its_definition() -> None:
    p, t = labelled_pixels()
    right = np.where(t == 1, p, 1 - p)
    expected = np.mean(-np.where(t == 1, 0.25, 0.75) * (1 - right) ** 2 * np.log(right))
    assert focal_loss(*masks()).item() == pytest.approx(expected, rel=1e-5)


def test_dice_and_tversky_match_their_definitions() -> None:
    p, t = labelled_pixels()
    dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    assert tversky_loss(*masks()).item() == pytest.approx(dice, rel=1e-5)
    hit, missed, false = (p * t).sum(), ((1 - p) * t).sum(), (p * (1 - t)).sum()
    tversky = 1 - (hit + 0.5) / (hit + 0.7 * missed + 0.3 * false + 0.5)
    assert tversky_loss(*masks(), 0.7, 0.3).item() == pytest.approx(tversky, rel=1e-5)


def test_mask_losses_are_put_together_as_documented() -> None:
    pair = masks()
    dice, focal = tversky_loss(*pair), focal_loss(*pair)
    tversky, entropy = tversky_loss(*pair, 0.7, 0.3), cross_entropy(*pair)
    assert torch.equal(drivable_loss(*pair, "dice"), entropy + dice)
    assert torch.equal(lane_loss(*pair, "dice"), cross_entropy(*pair, 2.0) + dice)
    assert torch.equal(drivable_loss(*pair, "focal"), 24 * focal + 8 * entropy)
    assert torch.equal(lane_loss(*pair, "focal"), 24 * focal + 8 * tversky)


@pytest.mark.parametrize("loss", [drivable_loss, lane_loss])
@pytest.mark.parametrize("kind", get_args(MaskLoss))
def test_ignored_pixels_take_no_part(loss: Callable[..., torch.Tensor], kind: MaskLoss) -> None:
    logits, target = masks()
    changed = logits.clone()
    changed[0, :2] += 5
    assert loss(changed, target, kind) == loss(logits, target, kind)


@pytest.mark.parametrize("loss", [drivable_loss, lane_loss])
@pytest.mark.parametrize("kind", get_args(MaskLoss))
def test_unlabelled_masks_cost_nothing(loss: Callable[..., torch.Tensor], kind: MaskLoss) -> None:
    logits = torch.randn(1, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((1, 4, 4), IGNORE, dtype=torch.uint8), kind)
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()

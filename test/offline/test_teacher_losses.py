"""What a teacher adds to the loss, against slow references."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_compress.data.targets import Targets
from offline_compress.losses.boxes import generalised_iou
from offline_compress.losses.mask_losses import tversky_loss
from offline_compress.losses.teacher_losses import (
    foreground,
    mask_divergence,
    vehicle_divergence,
)
from offline_compress.models.heads import DenseDetections


def targets(boxes: torch.Tensor, kinds: torch.Tensor, labelled: list[bool]) -> Targets:
    masks = torch.zeros(len(boxes), 32, 64, dtype=torch.uint8)
    return Targets(boxes, kinds, torch.tensor(labelled), masks, masks)


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=60, deadline=None)
def test_every_vehicle_has_the_same_share_of_the_foreground(seed: int, stride: int) -> None:
    """By painting boxes of whole eighths of a pixel onto a grid of such."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, [63 * 8, 31 * 8], (3, 4, 2))
    high = np.minimum(low + rng.integers(1, 160, (3, 4, 2)), [64 * 8, 32 * 8])
    kinds = rng.choice([0, -1, -2], (3, 4))
    kinds[0, 0] = 0
    labelled = [True, bool(rng.integers(2)), False]
    boxes = torch.from_numpy(np.concatenate((low, high), -1) / 8).float()
    found = foreground(
        targets(boxes, torch.from_numpy(kinds), labelled), 32 // stride, 64 // stride
    )
    wanted, count = np.zeros(found.shape), 0
    for n in range(3):
        for m in range(4):
            if kinds[n, m] == 0 and labelled[n]:
                paint = np.zeros((32 * 8, 64 * 8))
                paint[low[n, m, 1] : high[n, m, 1], low[n, m, 0] : high[n, m, 0]] = 1
                cell = 8 * stride
                share = paint.reshape(32 // stride, cell, 64 // stride, cell).sum((1, 3))
                wanted[n] += share / share.sum()
                count += 1
    np.testing.assert_allclose(found.numpy(), wanted / count, atol=1e-6)
    assert found.sum().item() == pytest.approx(1, abs=1e-5)


def test_a_batch_without_vehicles_has_no_foreground() -> None:
    boxes, kinds = torch.tensor([[[1.0, 1, 9, 9]]]), torch.tensor([[-2]])
    assert not foreground(targets(boxes, kinds, [True]), 4, 8).any()
    assert not foreground(targets(boxes, kinds * 0, [False]), 4, 8).any()


def logits(seed: int) -> torch.Tensor:
    return torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(seed)) * 3


def test_mask_divergence_matches_its_definition() -> None:
    student, teacher = logits(0), logits(1)
    p, q = (1 / (1 + np.exp(-m.double().numpy())) for m in (student, teacher))
    kl = np.mean(q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)))
    dice = np.abs(p - q).sum() / (p.sum() + q.sum() + 1)
    assert mask_divergence(student, teacher).item() == pytest.approx(kl + dice, rel=1e-5)


def test_mask_divergence_is_least_where_masks_are_equal() -> None:
    teacher = logits(2)
    assert mask_divergence(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    for step in (-0.3, 0.3):
        assert mask_divergence(teacher + step, teacher) > 0.01
    # Of a teacher that is sure, the second part is the Dice loss of labels.
    sure = torch.where(teacher > 0, 200.0, -200.0)
    student = logits(3)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(student, sure.sigmoid())
    dice = tversky_loss(student, (sure > 0).to(torch.uint8))
    torch.testing.assert_close(mask_divergence(student, sure), entropy + dice)


def detections(seed: int) -> DenseDetections:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(12, 2, generator=generator) * 60
    half = torch.rand(3, 12, 2, generator=generator) * 9 + 1
    return DenseDetections(
        torch.randn(3, 12, 1, generator=generator) * 3,
        torch.cat((centers - half, centers + half), -1),
        centers,
        torch.full((12,), 8.0),
    )


def test_vehicle_divergence_matches_its_definition() -> None:
    student, teacher = detections(0), detections(1)
    counted = torch.tensor([True, False, True])[:, None].expand(3, 12)
    placed = counted & (torch.arange(12) % 3 > 0)
    found = vehicle_divergence(student, teacher, counted, placed).item()
    classify = regress = norm = 0.0
    for n in (0, 2):
        for a in range(12):
            p, q = (
                1 / (1 + np.exp(-d.logits[n, a, 0].double().item())) for d in (student, teacher)
            )
            kl = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
            classify += (p - q) ** 2 * kl
            if q >= 0.1 and placed[n, a]:
                giou = generalised_iou(student.boxes[n, a], teacher.boxes[n, a]).item()
                regress += q * (1 - giou)
                norm += q
    assert found == pytest.approx((classify + 2 * regress) / norm, rel=1e-4)


def test_vehicles_of_no_image_and_of_a_perfect_copy_cost_nothing() -> None:
    student, teacher = detections(0), detections(1)
    nowhere = torch.zeros(3, 12, dtype=torch.bool)
    assert vehicle_divergence(student, teacher, nowhere, nowhere).item() == 0
    all_ = ~nowhere
    assert vehicle_divergence(teacher, teacher, all_, all_).item() == pytest.approx(0, abs=1e-6)
    assert vehicle_divergence(student, teacher, all_, all_).item() > 0.5

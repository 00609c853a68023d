"""Denoising queries: what they are made of, who sees them, batches without boxes."""

import pytest
import torch

from offline_compress.data.targets import Targets
from offline_compress.models.decoder import QueryDetections
from offline_compress.models.denoising import DENOISING_QUERIES, denoising_queries
from support.decoder_rig import (
    CLASSES,
    QUERIES,
    SIZE,
    decoder,
    in_training,
    pyramid,
    targets,
    two_images,
)


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

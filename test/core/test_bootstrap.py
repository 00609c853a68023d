"""The paired bootstrap: its intervals are those of the error, its figures those of the metrics."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtc_perception.core.packed_mask import PackedMask
from mtc_perception.core.truth import GroundTruth
from mtc_perception.metrics.bootstrap import (
    BLOCK_IMAGES,
    Difference,
    Resamples,
    blocks_of_images,
    difference,
    drive_of,
    mean_of,
    mean_over_parts,
    strata_of,
)
from mtc_perception.metrics.estimates import detection_estimates, mask_estimates
from mtc_perception.metrics.figures import value_of
from mtc_perception.metrics.tasks import ImageEvidence, PerceptionMetrics, judge_image


def change_of(a: Any, b: Any, blocks: Any, strata: list[str] | None = None) -> Difference:
    """The difference of the means of two networks' values."""
    resamples = Resamples(blocks, strata)
    return difference(mean_of(a), mean_of(b), len(a), resamples, lambda: None)


def width(found: Difference) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_the_interval_is_that_of_the_mean_s_error() -> None:
    random = np.random.default_rng(1)
    noise = random.normal(0, 1, 400)
    hard = random.normal(0, 50, 400)  # what is hard for both cancels out
    found = change_of(hard, hard + 0.2 + noise, np.arange(400))
    assert found.change == pytest.approx(0.2 + noise.mean())
    assert width(found) == pytest.approx(2 * 1.96 * noise.std() / 20, rel=0.15)


def test_neighbouring_images_are_no_independent_evidence() -> None:
    scenes = np.repeat(np.random.default_rng(2).normal(0, 1, 20), 30)
    nothing = np.zeros(600)
    together = change_of(nothing, scenes, np.repeat(np.arange(20), 30))
    alone = change_of(nothing, scenes, np.arange(600))
    assert width(together) > 4 * width(alone)


def test_what_differs_between_strata_is_no_spread() -> None:
    """Every drive keeps its share of the images: that one is easier than the other is no chance."""
    random = np.random.default_rng(3)
    easy = np.repeat([0.0, 10.0], 100)
    values = easy + random.normal(0, 1, 200)
    drives = ["a"] * 100 + ["b"] * 100
    within = change_of(np.zeros(200), values, np.arange(200), drives)
    assert width(within) == pytest.approx(2 * 1.96 / math.sqrt(200), rel=0.2)
    assert width(change_of(np.zeros(200), values, np.arange(200))) > 3 * width(within)
    for weights in Resamples(np.arange(200), drives):
        assert weights[:100].sum() == weights[100:].sum() == 100


def test_too_few_images_say_nothing() -> None:
    assert change_of(np.zeros(4), np.ones(4), np.arange(4)) == Difference(1.0, None, None)


@pytest.mark.parametrize(
    ("stem", "drive"),
    [
        ("0001TP_006690", "0001TP_"),
        ("Seq05VD_f00030", "Seq05VD_f"),
        ("aachen_000012_000019_leftImg8bit", "aachen_000012_"),
        ("000000012", ""),
        ("7", ""),
        ("b1c66a42-6f7d68ca", "b1c66a42-6f7d68ca"),
    ],
)
def test_a_drive_is_what_precedes_the_frame_number(stem: str, drive: str) -> None:
    assert drive_of(stem) == (drive if drive != stem else "")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40)), max_size=6))
def test_blocks_are_neighbours_of_one_drive(runs: list[tuple[str, int]]) -> None:
    drives = [drive for drive, length in runs for _ in range(length)]
    blocks = blocks_of_images(drives)
    assert len(blocks) == len(drives)
    assert (np.diff(blocks, prepend=0) >= 0).all()
    assert (np.diff(blocks) <= 1).all()
    for block in set(blocks.tolist()):
        members = [drives[place] for place in np.flatnonzero(blocks == block)]
        assert len(set(members)) == 1
        assert len(members) < 2 * BLOCK_IMAGES
    for place in range(1, len(drives)):
        if drives[place] != drives[place - 1]:
            assert blocks[place] != blocks[place - 1]


def test_a_drive_of_few_blocks_is_no_stratum() -> None:
    drives = ["long"] * 40 + [f"short{index}" for index in range(10)]
    blocks = blocks_of_images(drives)
    strata = strata_of(drives, blocks, ["town"] * 50)
    assert strata == ["town/long"] * 40 + ["town/"] * 10
    # Of images each of its own drive the whole set is drawn from: there is a spread.
    alone = [f"drive{index}" for index in range(30)]
    sets = ["town"] * 20 + ["village"] * 10
    assert strata_of(alone, blocks_of_images(alone), sets) == [f"{one}/" for one in sets]


def noisy_evidence(random: np.random.Generator, images: int) -> list[ImageEvidence]:
    """Vehicles found and missed, doubles, ignore regions, masks of chance; tasks unlabelled."""
    found = []
    for _ in range(images):
        corner = random.uniform(0, 40, (6, 2))
        boxes = np.concatenate([corner, corner + 12], axis=1)
        moved = boxes[[0, 0, 1, 2, 5]] + random.normal(0, 1.5, (5, 4))
        label = random.random((8, 16)) < 0.4
        masks = [PackedMask.pack(random.random((8, 16)) < 0.4) for _ in "ab"]
        of_boxes, of_drivable, of_lane = random.random(3) < 0.8
        truth = GroundTruth(
            boxes[:5] if of_boxes else None,
            np.array([False, False, False, True, True]) if of_boxes else None,
            label if of_drivable else None,
            label if of_lane else None,
        )
        scores = random.uniform(0.01, 1, 5).astype(np.float32)
        found.append(judge_image(truth, moved, scores, *masks))
    return found


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_an_image_of_weight_two_counts_twice(seed: int) -> None:
    random = np.random.default_rng(seed)
    evidence = noisy_evidence(random, 12)
    weights = random.integers(0, 4, len(evidence)).astype(float)
    metrics = PerceptionMetrics(score_threshold=0.4)
    for one, weight in zip(evidence, weights, strict=True):
        for _ in range(int(weight)):
            metrics.add(one)
    expected = metrics.to_json()
    estimates = detection_estimates(evidence, 0.4) | mask_estimates(evidence)
    assert estimates
    whole = PerceptionMetrics(score_threshold=0.4)
    for one in evidence:
        whole.add(one)
    for name, estimate in estimates.items():
        value, wanted = estimate(weights), value_of(expected, name)
        if name.endswith(("recall_at_best_f1", "precision_at_best_f1")):
            # Their threshold is that of all images, whatever these weigh.
            value, wanted = estimate(np.ones(len(evidence))), value_of(whole.to_json(), name)
        assert (math.isnan(value) and wanted is None) or value == pytest.approx(wanted), name


def test_the_mean_over_sets_is_of_their_own_figures() -> None:
    first, second = mean_of([0.0, 1.0]), mean_of([None, 0.5, 0.7])
    both = mean_over_parts([(slice(0, 2), first), (slice(2, 5), second)])
    assert both(np.array([1.0, 1, 1, 1, 1])) == pytest.approx((0.5 + 0.6) / 2)
    assert both(np.array([1.0, 3, 1, 0, 1])) == pytest.approx((0.75 + 0.7) / 2)
    assert both(np.array([1.0, 1, 1, 0, 0])) == pytest.approx(0.5)  # undefined in the second

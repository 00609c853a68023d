"""Criteria on made-up statistics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from mtc_perception.core.tasks import TASKS
from offline_compress.channels.groups import ChannelGroup
from offline_compress.importance import ChannelScores, criterion_scores, locked
from offline_compress.importance.scorer import Scorer
from offline_compress.recipe.compression import Criterion
from support.gated_net import MAKERS, SIZES, gated_net, groups, images, losses

GROUPS = [
    ChannelGroup("a", 4, (), {}, ""),
    ChannelGroup("fixed", 3, (), {}, "a head"),
    ChannelGroup("b", 6, (), {}, ""),
]
NO_MODEL = nn.Identity()


def channel_scores(
    taylor: np.ndarray, conflict: np.ndarray | None = None, joint: np.ndarray | None = None
) -> ChannelScores:
    """Of GROUPS, from [3, 10], [3, 10] and [10] for a and b together."""

    def split(values: np.ndarray) -> dict[str, np.ndarray]:
        return {"a": values[..., :4], "b": values[..., 4:]}

    return ChannelScores(
        split(taylor),
        split(taylor.sum(0) if joint is None else joint),
        split(np.zeros((3, 10)) if conflict is None else conflict),
        8,
        2,
        (2, 2, 2),
        (2, 2, 2),
    )


def values(scores: ChannelScores, criterion: Criterion, conflict_weight: float = 0.0) -> np.ndarray:
    found = criterion_scores(scores, GROUPS, NO_MODEL, criterion, conflict_weight, 0)
    assert list(found) == ["a", "b"]
    return np.concatenate(list(found.values()))


energies = arrays(np.float64, (3, 10), elements=st.floats(1e-6, 1e6))
shares = arrays(np.float64, (3, 10), elements=st.floats(0, 1))


def test_the_criteria_are_what_they_are_called() -> None:
    rng = np.random.default_rng(0)
    taylor, conflict, joint = rng.random((3, 10)), rng.random((3, 10)), rng.random(10)
    scores = channel_scores(taylor, conflict, joint)
    each = taylor / taylor.mean(1, keepdims=True)
    penalty = 1 - 0.3 * conflict.mean(0)
    np.testing.assert_allclose(values(scores, "tci_max", 0.3), each.max(0) * penalty)
    np.testing.assert_allclose(values(scores, "tci_sum", 0.3), each.sum(0) * penalty)
    np.testing.assert_array_equal(values(scores, "joint", 0.3), joint)


def test_random_scores_follow_the_seed() -> None:
    scores = channel_scores(np.ones((3, 10)))
    first, again, other = (
        np.concatenate(
            list(criterion_scores(scores, GROUPS, NO_MODEL, "random", 0.3, seed).values())
        )
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert len(np.unique(np.concatenate((first, other)))) == 20
    assert ((first >= 0) & (first < 1)).all()


@settings(deadline=None)
@given(energies, shares, st.floats(0, 1))
def test_the_penalty_is_bounded(
    taylor: np.ndarray, conflict: np.ndarray, conflict_weight: float
) -> None:
    scores = channel_scores(taylor, conflict)
    for criterion in ("tci_sum", "tci_max"):
        free = values(scores, criterion)
        penalised = values(scores, criterion, conflict_weight)
        assert (penalised <= free).all()
        assert (penalised >= (1 - conflict_weight) * free * (1 - 1e-12)).all()


@settings(deadline=None)
@given(energies, shares, st.integers(0, 2))
def test_the_scale_of_a_task_s_loss_means_nothing(
    taylor: np.ndarray, conflict: np.ndarray, task: int
) -> None:
    scaled = taylor.copy()
    scaled[task] *= 1000.0**2
    for criterion in ("tci_sum", "tci_max"):
        np.testing.assert_allclose(
            values(channel_scores(scaled, conflict), criterion, 0.3),
            values(channel_scores(taylor, conflict), criterion, 0.3),
            rtol=1e-9,
        )


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2))
def test_the_scale_of_a_measured_loss_means_nothing(task: int) -> None:
    """Through the scoring pass itself: only the joint criterion moves."""
    net = gated_net()
    found = []
    for scale in (1.0, 1000.0):
        scorer = Scorer(net, groups(), TASKS)
        each = losses(net, images(1))
        each[task] = scale * each[task]
        scorer.add(list(each), 2)
        scores = scorer.scores()
        found.append(
            {
                criterion: np.concatenate(
                    list(criterion_scores(scores, groups(), net, criterion, 0.3, 0).values())
                )
                for criterion in ("tci_max", "joint")
            }
        )
    np.testing.assert_allclose(found[1]["tci_max"], found[0]["tci_max"], rtol=1e-9)
    assert (found[1]["joint"] > 10 * found[0]["joint"]).any()


@settings(deadline=None)
@given(energies, shares, st.integers(0, 2), st.integers(0, 9))
def test_what_is_vital_to_one_task_stays_on_top(
    taylor: np.ndarray, conflict: np.ndarray, task: int, channel: int
) -> None:
    """One task hangs on one channel, whatever the others do and however they fight over it."""
    vital = taylor.copy()
    vital[:, channel] = 0
    vital[task] = 1e-9
    vital[task, channel] = 1
    scores = channel_scores(vital, conflict)
    # Nothing can be worth more than 10 times the mean of 10 channels, which this one nearly is.
    assert values(scores, "tci_max")[channel] > 0.999 * values(scores, "tci_max").max()
    assert values(scores, "tci_max", 0.3)[channel] >= 0.7 * 9.99
    assert np.concatenate(list(locked(scores, GROUPS, 0.1).values()))[channel]


def test_a_task_that_hangs_on_no_channel_moves_none() -> None:
    taylor = np.random.default_rng(0).random((3, 10))
    taylor[1] = 0
    each = taylor[[0, 2]] / taylor[[0, 2]].mean(1, keepdims=True)
    np.testing.assert_allclose(values(channel_scores(taylor), "tci_max"), each.max(0))


@settings(deadline=None)
@given(energies, st.floats(0, 1))
def test_the_best_share_of_every_task_is_locked(taylor: np.ndarray, share: float) -> None:
    found = locked(channel_scores(taylor), GROUPS, share)
    assert {name: keep.shape for name, keep in found.items()} == {"a": (4,), "b": (6,)}
    keep = np.concatenate(list(found.values()))
    count = int(share * 10)
    assert count <= keep.sum() <= 3 * count
    for task in range(3):
        left = taylor[task][~keep]
        assert (np.sort(taylor[task])[::-1][:count].min(initial=np.inf) >= left).all()


def test_what_does_nothing_for_a_task_is_not_locked_for_it() -> None:
    taylor = np.zeros((3, 10))
    taylor[0, 3], taylor[1, 5] = 1, 2
    keep = np.concatenate(list(locked(channel_scores(taylor), GROUPS, 0.5).values()))
    assert keep.nonzero()[0].tolist() == [3, 5]


@pytest.mark.parametrize("group", SIZES)
def test_magnitudes_are_those_of_all_filters_of_a_channel(group: str) -> None:
    net = gated_net()
    scorer = Scorer(net, groups(), TASKS)
    scorer.add(list(losses(net, images(1))), 2)
    found = criterion_scores(scorer.scores(), groups(), net, "l2", 0.3, 0)[group]
    weights = [
        np.moveaxis(net.get_parameter(f"{layer}.weight").detach().numpy(), axis, 0)
        for layer, axis in MAKERS[group]
    ]
    lengths = np.linalg.norm(
        np.concatenate([weight.reshape(SIZES[group], -1) for weight in weights], 1), axis=1
    )
    np.testing.assert_allclose(found, lengths / lengths.mean(), rtol=1e-12)

"""Scores against brute force in float64, and the scoring pass on the real networks."""

import copy
from dataclasses import fields, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from mtc_perception.core.tasks import TASKS
from mtc_perception.util.errors import UserError
from offline_compress.channels.groups import ChannelGroup, Slice
from offline_compress.importance import ChannelScores, conflict_summary, load, measure, save
from offline_compress.importance.measure import labelled_losses, scoring_mode
from offline_compress.importance.multi_task import description_of
from offline_compress.importance.scorer import Scorer
from offline_compress.models.decoder import QueryDetections
from offline_compress.models.network import ConvMultiTask
from offline_compress.models.rmt_ppad import RmtPpad
from support.gated_net import MAKERS, SIZES, GatedNet, gated_net, groups, images, losses
from support.pruning_tools import registry_groups
from support.scoring_rig import QUERY, batch, network
from support.tiny_networks import TINY

SEEDS = (1, 2, 3)
PAIRS = ((0, 1), (0, 2), (1, 2))


def scored(net: GatedNet, seeds: tuple[int, ...] = SEEDS) -> ChannelScores:
    scorer = Scorer(net, groups(), TASKS)
    for seed in seeds:
        scorer.add(losses(net, images(seed)), 2)
    return scorer.scores()


def gate_derivatives(net: GatedNet, image: torch.Tensor, group: str) -> np.ndarray:
    """[3, C] central differences of every loss with respect to the gate of every channel."""
    step = 1e-5
    found = np.zeros((3, SIZES[group]))
    for channel in range(SIZES[group]):
        for sign in (1, -1):
            gate = torch.ones(SIZES[group], dtype=torch.float64)
            gate[channel] += sign * step
            with torch.no_grad():
                found[:, channel] += [sign * float(x) for x in losses(net, image, {group: gate})]
    return found / (2 * step)


@pytest.mark.parametrize("group", SIZES)
def test_s_is_the_derivative_with_respect_to_a_gate_on_the_channel(group: str) -> None:
    net = gated_net()
    scores = scored(net)
    s = np.stack([gate_derivatives(net, images(seed), group) for seed in SEEDS])
    assert np.abs(s).max() > 1e-2
    np.testing.assert_allclose(scores.taylor[group], (s**2).mean(0), rtol=1e-5, atol=1e-12)
    # The signs: terms of different tasks add up and cancel.
    np.testing.assert_allclose(scores.joint[group], (s.sum(1) ** 2).mean(0), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("group", [g for g in groups() if not g.protected], ids=lambda g: g.name)
def test_s_is_the_loss_change_of_a_real_removal_to_first_order(group: ChannelGroup) -> None:
    """Removed by zeroing all that makes the channel, which scoring does not look at."""
    for channel in range(group.size):
        net = gated_net()
        with torch.no_grad():
            for part in group.slices:
                if (
                    part.side == "in"
                ):  # so little is read of it that the first order is all there is
                    reader = net.get_submodule(part.layer)
                    transposed = isinstance(reader, nn.ConvTranspose2d)
                    weight = reader.weight if transposed else reader.weight.transpose(0, 1)
                    weight[part.index[channel]] *= 1e-5
            cut = copy.deepcopy(net)
            for part in group.slices:
                if part.side == "out":
                    _silence(cut, part.layer, part.index[channel])
            change = [
                float(after - before)
                for after, before in zip(
                    losses(cut, images(1)), losses(net, images(1)), strict=True
                )
            ]
        scores = scored(net, (1,))
        expected = scores.taylor[group.name][:, channel]
        np.testing.assert_allclose(np.square(change), expected, rtol=1e-2, atol=1e-24)
        np.testing.assert_allclose(sum(change) ** 2, scores.joint[group.name][channel], rtol=1e-2)


def _silence(net: nn.Module, layer: str, channels: np.ndarray) -> None:
    if layer == "blend":
        net.blend[0, channels] = 0
        return
    module = net.get_submodule(layer)
    if isinstance(module, nn.ConvTranspose2d):
        module.weight[:, channels] = 0
    else:
        module.weight[channels] = 0
    if module.bias is not None:
        module.bias[channels] = 0


@pytest.mark.parametrize("group", SIZES)
def test_conflict_is_the_cosine_of_the_filters_gradients(group: str) -> None:
    net = gated_net()
    weights = [net.get_parameter(f"{layer}.weight") for layer, _ in MAKERS[group]]
    expected = np.zeros((3, SIZES[group]))
    for seed in SEEDS:
        theta = []  # [task][channel]: all filters of the channel as one vector
        for loss in losses(net, images(seed)):
            found = torch.autograd.grad(
                loss, weights, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            rows = [
                np.moveaxis(g.numpy(), axis, 0).reshape(SIZES[group], -1)
                for g, (_, axis) in zip(found, MAKERS[group], strict=True)
            ]
            theta.append(np.concatenate(rows, 1))
        for pair, (a, b) in enumerate(PAIRS):
            for channel in range(SIZES[group]):
                first, second = theta[a][channel], theta[b][channel]
                if first.any() and second.any():
                    cosine = first @ second / np.sqrt((first @ first) * (second @ second))
                    expected[pair, channel] += max(0.0, -cosine) / len(SEEDS)
    np.testing.assert_allclose(scored(net).conflict[group], expected, rtol=1e-9, atol=1e-12)
    assert (expected.max() > 0.1) == (group in ("skip", "deep"))


def test_neither_order_nor_splitting_of_the_batches_matters() -> None:
    net = gated_net()
    scorers = []
    for order in permutations(SEEDS):
        scorers.append(Scorer(net, groups(), TASKS))
        for seed in order:
            scorers[-1].add(losses(net, images(seed)), 2)
    parts = [Scorer(net, groups(), TASKS) for _ in range(2)]
    for seed in SEEDS:
        parts[seed % 2].add(losses(net, images(seed)), 2)
    for sums in (*(scorer.sums for scorer in scorers[1:]), parts[0].sums + parts[1].sums):
        torch.testing.assert_close(sums, scorers[0].sums, rtol=1e-12, atol=1e-15)


def test_a_batch_counts_only_for_the_tasks_it_is_labelled_for() -> None:
    net = gated_net()
    scorer = Scorer(net, groups(), TASKS)
    scorer.add(losses(net, images(1)), 2)
    scorer.add([*losses(net, images(2))[:2], None], 2)
    scorer.add([None, *losses(net, images(3))[1:]], 3)
    scores = scorer.scores()
    assert (scores.images, scores.batches) == (7, 3)
    assert (scores.labelled, scores.together) == ((2, 3, 2), (2, 1, 2))
    s = {seed: gate_derivatives(net, images(seed), "skip") for seed in SEEDS}
    expected = [
        [s[seed][task] ** 2 for seed in seeds] for task, seeds in enumerate(((1, 2), SEEDS, (1, 3)))
    ]
    for task in range(3):
        np.testing.assert_allclose(
            scores.taylor["skip"][task], np.mean(expected[task], 0), rtol=1e-5, atol=1e-12
        )
    for pair, seeds in enumerate(((1, 2), (1,), (1, 3))):
        alone = [scored(net, (seed,)).conflict["skip"][pair] for seed in seeds]
        np.testing.assert_allclose(scores.conflict["skip"][pair], np.mean(alone, 0), rtol=1e-12)


def test_a_task_without_any_label_is_named() -> None:
    net = gated_net()
    scorer = Scorer(net, groups(), TASKS)
    scorer.add([losses(net, images(1))[0], None, None], 2)
    with pytest.raises(UserError, match=r"no labels for drivable and lane.*`train`"):
        scorer.scores()


def test_gradients_that_are_not_finite_are_refused() -> None:
    net = gated_net()
    net.enter.weight.data[0] = torch.nan
    with pytest.raises(
        UserError, match=r"gradients of detection .*not finite.*schedule.learning_rate"
    ):
        scored(net)


@pytest.mark.parametrize("reader", [nn.Conv2d(4, 4, 1, groups=2), nn.MultiheadAttention(4, 1)])
def test_a_layer_that_cannot_be_scored_is_named(reader: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), reader)
    index = np.arange(4)[:, None]
    group = ChannelGroup("0", 4, (Slice("0", "out", index), Slice("1", "in", index)), {}, "")
    with pytest.raises(UserError, match=r"what layer 1 reads cannot be scored.*protect"):
        Scorer(net, [group], TASKS)


def test_a_network_of_which_all_is_protected_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"nothing to prune; shorten `protect`.*compress.prune.protect"
    ):
        Scorer(gated_net(), [replace(group, protected="head") for group in groups()], TASKS)


@pytest.mark.slow
def test_relu_networks_agree_with_the_gates_on_their_norms() -> None:
    """gamma dL/dgamma + beta dL/dbeta over a group's BatchNorms (see scorer.py)."""
    model = network(ConvMultiTask, TINY)
    found = registry_groups(model)
    batches = [batch(seed) for seed in SEEDS[:2]]
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    expected = {g.name: np.zeros((3, g.size)) for g in found if not g.protected}
    for one in batches:
        gates: dict[str, list[np.ndarray]] = {name: [] for name in norms}
        with scoring_mode(model):
            for loss in labelled_losses(model, one, description_of(model)):
                model.zero_grad()
                assert loss is not None
                loss.backward(retain_graph=True)
                for name, norm in norms.items():
                    gate = torch.zeros(norm.num_features)
                    if norm.weight.grad is not None:
                        gate = norm.weight * norm.weight.grad + norm.bias * norm.bias.grad
                    gates[name].append(gate.detach().double().numpy())
        for group in found:
            if not group.protected:
                s = sum(
                    np.stack(gates[part.layer])[:, part.index].sum(-1)
                    for part in group.slices
                    if part.layer in norms
                )
                expected[group.name] += s**2 / len(batches)
    scores = measure(model, found, batches, description_of(model))
    assert scores.taylor.keys() == expected.keys()
    for name, values in expected.items():
        for task in range(3):
            np.testing.assert_allclose(
                scores.taylor[name][task],
                values[task],
                rtol=2e-2,
                atol=1e-4 * values[task].max(),
                err_msg=f"{name}, {TASKS[task]}",
            )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "arguments"), [(ConvMultiTask, TINY), (RmtPpad, QUERY)])
def test_scoring_is_repeatable_and_leaves_the_model_as_it_was(
    kind: type[nn.Module], arguments: dict[str, Any]
) -> None:
    model = network(kind, arguments)
    model.encoder.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    found = registry_groups(copy.deepcopy(model).eval())
    description = description_of(model, "focal")
    ticks: list[tuple[int, int]] = []
    batches = [batch(seed) for seed in SEEDS[:2]]
    scores = measure(model, found, batches, description, count=lambda *tick: ticks.append(tick))
    again = measure(model, found, batches, description)
    assert ticks == [(1, 2), (2, 2)]
    assert (scores.images, scores.batches) == (4, 2)
    for group in found:
        assert (group.name in scores.taylor) == (not group.protected)
    for name in scores.taylor:
        for kind_of in ("taylor", "joint", "conflict"):
            values = getattr(scores, kind_of)[name]
            assert np.array_equal(values, getattr(again, kind_of)[name])
            assert (values >= 0).all()
        assert (scores.conflict[name] <= 1).all()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_decoder_layer_has_its_say_but_no_noise_does() -> None:
    model = network(RmtPpad, QUERY)
    with scoring_mode(model):
        detections = model(torch.rand(1, 3, 64, 96)).detections
    assert isinstance(detections, QueryDetections)
    assert len(detections.auxiliary) == QUERY["layers"]
    assert detections.denoising is None


def test_labels_are_looked_for_in_every_batch() -> None:
    model = network(ConvMultiTask, TINY)
    found = registry_groups(model)
    some = [batch(1, (True, False, True)), batch(2, (False, True, True))]
    scores = measure(model, found, some, description_of(model))
    assert (scores.labelled, scores.together) == ((1, 1, 2), (0, 1, 1))
    with pytest.raises(UserError, match="no labels for detection, "):
        measure(model, found, some[1:], description_of(model))


def test_scores_are_kept_in_a_file(tmp_path: Path) -> None:
    scores = scored(gated_net())
    save(tmp_path / "scores.safetensors", scores)
    again = load(tmp_path / "scores.safetensors")
    for field in fields(ChannelScores):
        old, new = getattr(scores, field.name), getattr(again, field.name)
        if isinstance(old, dict):
            assert old.keys() == new.keys()
            assert all(np.array_equal(old[name], new[name]) for name in old)
        else:
            assert old == new
    assert [path.name for path in tmp_path.iterdir()] == ["scores.safetensors"]


def test_a_file_without_scores_is_refused(tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"\x10" * 100)
    save_file({"other": np.zeros(1)}, tmp_path / "other")
    for name in ("missing", "damaged", "other"):
        with pytest.raises(UserError, match=f"{name} holds no channel scores"):
            load(tmp_path / name)


def test_conflicts_are_summarised_by_group_and_pair() -> None:
    scores = scored(gated_net())
    summary = conflict_summary(replace(scores, together=(3, 0, 3)))
    assert summary.keys() == scores.conflict.keys()
    assert summary["skip"] == {
        "detection/drivable": pytest.approx(scores.conflict["skip"][0].mean()),
        "detection/lane": None,
        "drivable/lane": pytest.approx(scores.conflict["skip"][2].mean()),
    }

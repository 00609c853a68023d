"""Cutting: pruned networks run, train, reload, fuse and export; and what cannot be cut is said."""

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtc_perception.engines.load import load_engine
from mtc_perception.util.errors import UserError
from offline_compress.channels.groups import ChannelGroup, Slice
from offline_compress.channels.surgery import keep_channels, pruned_spec, shorten_decoder
from offline_compress.export import (
    DeployGraph,
    count_gmacs,
    count_parameters,
    deployed,
)
from offline_compress.models.fuse import fuse
from offline_compress.models.registry import (
    ModelSpec,
    load_checkpoint,
    load_spec,
    save_checkpoint,
)
from offline_compress.training.distillation import kept_channels
from support.pruning_tools import (
    STRUCTURES,
    answers,
    assert_equal_but_for_rounding,
    image,
    list_of,
    network,
    registry_groups,
    some_channels,
    spec_of,
)

TAPS = ("c3", "c4", "c5", "p3", "p4", "p5")


def pruned(name: str, share: float = 0.5) -> tuple[ModelSpec, nn.Module]:
    spec = spec_of(name)
    model = network(spec)
    groups = registry_groups(model)
    kept = some_channels(groups, share)
    keep_channels(model, groups, kept)
    return pruned_spec(spec, model, groups, kept), model


@pytest.mark.slow
@pytest.mark.parametrize("name", STRUCTURES)
def test_pruned_networks_run_train_reload_and_fuse(name: str, tmp_path: Path) -> None:
    spec, model = pruned(name)
    before = answers(model)
    assert all(answer.isfinite().all() for answer in before)

    save_checkpoint(tmp_path, spec, model)
    assert load_spec(tmp_path) == spec
    again = load_checkpoint(tmp_path)
    for one, other in zip(before, answers(again), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(again.modules(), model.modules(), strict=True):
        assert one.extra_repr() == other.extra_repr()  # Channels and groups as well.

    exact = again.double()
    assert_equal_but_for_rounding(exact, fuse(exact))

    model.train()
    images = torch.cat((image(), -image()))
    torch.stack([answer.float().mean() for answer in list_of(model(images))]).sum().backward()
    trained = [p for n, p in model.named_parameters() if "detection_head" not in n]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert all(p.grad.shape == p.shape for p in trained)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mtc_xs", "rmt_ppad_n"])
def test_pruned_networks_export(name: str) -> None:
    _, model = pruned(name)
    unpruned = spec_of(name).build()
    assert count_parameters(model) < 0.55 * count_parameters(unpruned)
    assert count_gmacs(model, 64, 96) < 0.75 * count_gmacs(unpruned, 64, 96)
    # Checks shapes through the whole graph.
    engine = load_engine(deployed(model, 64, 96), "onnxruntime")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    engine.input[:] = pixels
    engine.start()
    found = engine.wait()
    with torch.no_grad():
        _, scores, _, drivable, lane = DeployGraph(model).eval()(torch.from_numpy(pixels))
    np.testing.assert_allclose(found.scores, scores.numpy(), atol=1e-4)
    assert np.abs(found.drivable.astype(int) - drivable.numpy()).max() <= 1
    assert np.abs(found.lane.astype(int) - lane.numpy()).max() <= 1
    engine.close()


def test_keeping_everything_changes_nothing() -> None:
    model = network(spec_of("mtc_xs"))
    parameters = dict(model.named_parameters())
    before = answers(model)
    groups = registry_groups(model)
    kept = {group.name: list(range(group.size))[::-1] for group in groups}
    keep_channels(model, groups, kept)
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, answers(model), strict=True))
    assert pruned_spec(spec_of("mtc_xs"), model, groups, kept) == spec_of("mtc_xs")


@pytest.mark.parametrize("name", ["mtc_s_lite0", "rmt_ppad_n"])
def test_one_channel_is_enough(name: str, tmp_path: Path) -> None:
    spec = spec_of(name)
    model = network(spec)
    groups = registry_groups(model)
    kept = {group.name: [group.size - 1] for group in groups if not group.protected}
    keep_channels(model, groups, kept)
    spec = pruned_spec(spec, model, groups, kept)
    save_checkpoint(tmp_path, spec, model)
    for one, other in zip(answers(model), answers(load_checkpoint(tmp_path)), strict=True):
        assert torch.equal(one, other)
    assert {len(channels) for channels in spec.taps.values()} == {1}
    assert {group.size for group in registry_groups(model) if not group.protected} == {1}


def test_transposed_convolutions_lose_the_right_sides() -> None:
    model = nn.ModuleDict({"up": nn.ConvTranspose2d(4, 6, 2)})
    weight, bias = model["up"].weight.clone(), model["up"].bias.clone()
    group = ChannelGroup("a", 4, (Slice("up", "in", np.arange(4)[:, None]),), {}, "")
    other = ChannelGroup("b", 3, (Slice("up", "out", np.array([[0, 3], [1, 4], [2, 5]])),), {}, "")
    keep_channels(model, [group, other], {"a": [3, 1], "b": [0, 2]})
    assert torch.equal(model["up"].weight, weight[[1, 3]][:, [0, 2, 3, 5]])
    assert torch.equal(model["up"].bias, bias[[0, 2, 3, 5]])
    assert (model["up"].in_channels, model["up"].out_channels) == (2, 4)


def test_random_state_is_left_alone() -> None:
    model = network(spec_of("mtc_xs"))
    before = torch.get_rng_state()
    groups = registry_groups(model)
    kept = some_channels(groups, 0.5)
    keep_channels(model, groups, kept)
    pruned_spec(spec_of("mtc_xs"), model, groups, kept)
    assert torch.equal(torch.get_rng_state(), before)


def numbered(model: nn.Module) -> nn.Module:
    """Every channel of every tap of mtc_xs answers with its own number."""
    for name, module in model.named_modules():
        if name.endswith("merge.1"):
            assert isinstance(module, nn.BatchNorm2d)
            with torch.no_grad():
                module.weight.zero_()
                module.bias.copy_(torch.arange(module.num_features))
    return model


def test_taps_compose_over_repeated_pruning(tmp_path: Path) -> None:
    spec = spec_of("mtc_xs")
    model = numbered(network(spec))
    for seed in (1, 2):
        groups = registry_groups(model)
        kept = some_channels(groups, 0.6, seed)
        del kept["encoder.bottom_up.1.merge.0"]
        if seed == 2:
            del kept["backbone.stages.1.1.merge.0"]
        keep_channels(model, groups, kept)
        spec = pruned_spec(spec, model, groups, kept)
    with torch.no_grad():
        features = model(image()).features
    assert set(spec.taps) == set(TAPS) - {"p5"}
    for tap, channels in spec.taps.items():
        assert features[tap][0, :, 0, 0].tolist() == channels
        assert channels == sorted(channels)
    assert features["p5"].shape[1] == 64
    save_checkpoint(tmp_path, spec, model)
    assert load_spec(tmp_path).taps == spec.taps


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        ({"backbone.stem": [0]}, "no channel group 'backbone.stem'"),
        ({"backbone.stem.0": [0, 16]}, "channels 0 to 15"),
        ({"backbone.stem.0": [-1, 3]}, "channels 0 to 15"),
        ({"backbone.stem.0": [3, 3]}, "named once"),
        ({"backbone.stem.0": []}, "at least one channel"),
        (
            {"lane_head.predict": [0, 1]},
            "keeps all its channels: read with weights",
        ),
    ],
)
def test_impossible_cuts_are_refused_before_anything_changes(
    kept: dict[str, Any], reason: str
) -> None:
    model = network(spec_of("mtc_xs"))
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=reason):
        keep_channels(model, registry_groups(model), {"encoder.top_down.0.skip.0": [1, 2], **kept})
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_frozen_parameters_stay_frozen() -> None:
    model = network(spec_of("mtc_xs"))
    model.backbone.requires_grad_(False)
    groups = registry_groups(model)
    keep_channels(model, groups, some_channels(groups, 0.5))
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert all(p.requires_grad for p in model.encoder.parameters())


def test_the_first_decoder_layers_answer_as_they_did() -> None:
    spec = spec_of("rmt_ppad_n")
    model = network(spec)
    reduced, shorter = shorten_decoder(model, spec, 2, None)
    with torch.no_grad():
        model.detection_head.training = True  # Only there: BatchNorms as in use.
        found = model(image()).detections.auxiliary[2]  # Proposals, layer 1, layer 2.
        model.detection_head.training = False
        answer = reduced(image()).detections
    torch.testing.assert_close(answer.logits, found.logits)
    torch.testing.assert_close(answer.boxes, found.boxes)
    assert shorter.arguments["layers"] == 2
    assert len(reduced.detection_head.score_heads) == 2
    assert not reduced.training
    for name, layers, queries, reason in (
        ("rmt_ppad_n", 4, None, "has 3 decoder layers, not 4"),
        ("rmt_ppad_n", 0, None, "has 3 decoder layers, not 0"),
        ("rmt_ppad_n", None, 0, "has 100 decoder queries, not 0"),
        ("rmt_ppad_n", None, 101, "has 100 decoder queries, not 101"),
        ("mtc_xs", 1, None, "has no query decoder"),
    ):
        with pytest.raises(UserError, match=reason):
            shorten_decoder(spec_of(name).build(), spec_of(name), layers, queries)


def test_fewer_queries_are_the_best_ones() -> None:
    """Queries see each other, so that their answers change; which cells they are does not."""
    spec = spec_of("rmt_ppad_n")
    model = network(spec)
    reduced, shorter = shorten_decoder(model, spec, None, 20)
    for one in (model, reduced):
        one.detection_head.training = True
    with torch.no_grad():
        all_of_them, best = (one(image()).detections.auxiliary[0] for one in (model, reduced))
    torch.testing.assert_close(best.logits, all_of_them.logits[:, :20])
    torch.testing.assert_close(best.boxes, all_of_them.boxes[:, :20])
    assert (shorter.arguments["layers"], shorter.arguments["queries"]) == (3, 20)


def test_decoder_layers_go_from_pruned_networks(tmp_path: Path) -> None:
    spec, model = pruned("rmt_ppad_n")
    reduced, shorter = shorten_decoder(model, spec, 1, None)
    save_checkpoint(tmp_path, shorter, reduced)
    for one, other in zip(answers(reduced), answers(load_checkpoint(tmp_path)), strict=True):
        assert torch.equal(one, other)
    assert shorter.taps == spec.taps


BLOCK = "backbone.stages.1.1.residuals.0"


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_switched_off_block_is_a_removed_one(share: float, tmp_path: Path) -> None:
    """Every other residual block, beside channels of the others; in float64."""
    spec = spec_of("mtc_xs")
    model = network(spec).double()
    groups = registry_groups(model)
    blocks = [group for group in groups if group.block]
    assert BLOCK in {group.block for group in blocks}
    assert len(blocks) == 12  # 8 in the backbone, 4 in the encoder
    switched = copy.deepcopy(model)
    for group in blocks[::2]:
        norm = switched.get_submodule(f"{group.block}.expand.1")
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
    kept = {} if share == 1 else some_channels(groups, share)
    keep_channels(switched, groups, kept)
    kept |= {group.name: [] for group in blocks[::2]}
    keep_channels(model, groups, kept)
    assert_equal_but_for_rounding(switched, model)

    cut = model.float()
    spec = pruned_spec(spec, cut, groups, kept)
    assert spec.removed == [group.block for group in blocks[::2]]
    assert spec.unpruned() == spec_of("mtc_xs")
    save_checkpoint(tmp_path, spec, cut)
    again = load_checkpoint(tmp_path)
    for one, other in zip(answers(cut), answers(again), strict=True):
        assert torch.equal(one, other)
    names = {group.name: group.size for group in registry_groups(again)}
    assert names == {
        g.name: len(kept.get(g.name, range(g.size))) for g in groups if g not in blocks[::2]
    }


def test_a_network_without_blocks_exports_and_teaches() -> None:
    spec = spec_of("mtc_xs")
    model = network(spec)
    groups = registry_groups(model)
    kept = {group.name: [] for group in groups if group.block}
    keep_channels(model, groups, kept)
    engine = load_engine(deployed(model, 64, 96), "onnxruntime")
    engine.close()
    student = pruned_spec(spec, model, groups, kept)
    assert kept_channels(student, spec)["c3"] == list(range(64))


def test_protected_blocks_stay() -> None:
    model = network(spec_of("mtc_xs"))
    groups = registry_groups(model, ["backbone.stages.1"])
    assert BLOCK not in {group.block for group in groups}
    with pytest.raises(UserError, match="at least one channel"):
        keep_channels(model, groups, {f"{BLOCK}.reduce.0": []})


STEM = "backbone.stem.0.weight"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shapes": {"backbone.nowhere": [1]}}, "no backbone.nowhere"),
        ({"shapes": {STEM: [17, 3, 3, 3]}}, r"\[16, 3, 3, 3\] unpruned, not \[17, 3, 3, 3\]"),
        ({"shapes": {STEM: [10**12, 3, 3, 3]}}, "unpruned, not"),
        ({"shapes": {STEM: [0, 3, 3, 3]}}, "unpruned, not"),
        ({"shapes": {STEM: [-8, 3, 3, 3]}}, "unpruned, not"),
        ({"shapes": {STEM: [8, 3]}}, "unpruned, not"),
        ({"shapes": {STEM: [True, 3, 3, 3]}}, "unpruned, not"),
        ({"shapes": {STEM: "8333"}}, "unpruned, not"),
        ({"shapes": {STEM: None}}, "unpruned, not"),
        ({"shapes": [STEM]}, "come by name"),
        ({"shapes": {STEM: [8, 3, 3, 3]}}, "do not fit each other"),
        ({"shapes": {STEM: [16, 3, 2, 2]}}, "do not fit each other"),
        ({"shapes": {"backbone.stem.1.running_var": [8]}}, "do not fit each other"),
        ({"shapes": {"backbone.stem.1.num_batches_tracked": [1]}}, "unpruned, not"),
        ({"taps": {"c9": [0]}}, "no feature 'c9'"),
        ({"taps": {"c3": [0, 1]}}, "feature c3 has 64 channels"),
        ({"taps": {"c3": list(range(63, -1, -1))}}, "ascending"),
        ({"taps": {"c3": [-1, *range(63)]}}, "ascending"),
        ({"taps": {"c3": "x" * 64}}, "ascending"),
        ({"taps": [1]}, "come by name"),
        ({"removed": ["backbone.stem"]}, "no residual block 'backbone.stem'"),
        ({"removed": [BLOCK, BLOCK]}, "a list of names"),
        ({"removed": BLOCK}, "a list of names"),
        ({"removed": [BLOCK], "shapes": {f"{BLOCK}.reduce.0.weight": [1]}}, "the network has no"),
    ],
)
def test_hostile_shapes_are_refused_in_one_line(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    spec = spec_of("mtc_xs")
    save_checkpoint(tmp_path, replace(spec, **change), spec.build())
    with pytest.raises(UserError, match=reason) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    spec, model = pruned("mtc_xs")
    save_checkpoint(tmp_path, spec_of("mtc_xs"), model)
    with pytest.raises(UserError, match=r"does not fit the network: .* is .*, not .* more"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, spec, spec_of("mtc_xs").build())
    with pytest.raises(UserError, match="does not fit the network"):
        load_checkpoint(tmp_path)


def test_narrow_networks_begin_with_weights_for_their_width() -> None:
    spec, _ = pruned("mtc_s")
    torch.manual_seed(0)
    model = spec.build()
    assert model.training
    checked = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            fan_in = module.weight[0].numel()  # Uniform within 1 / sqrt(fan_in).
            assert module.weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.06)
            checked += 1
    assert checked > 40
    assert model.detection_head.regress[0].bias.tolist() == [2.0] * 4


@pytest.mark.slow
def test_a_pruned_checkpoint_reloads_without_the_pruner(tmp_path: Path) -> None:
    spec, model = pruned("mtc_xs")
    save_checkpoint(tmp_path, spec, model)
    code = (
        "import sys; sys.modules['offline_compress.pruning'] = None;"
        "from pathlib import Path; from offline_compress.models.registry import load_checkpoint;"
        f"print(sum(p.numel() for p in load_checkpoint(Path({str(tmp_path)!r})).parameters()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    assert int(done.stdout) == sum(p.numel() for p in model.parameters())

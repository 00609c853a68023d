"""Channel groups: each layer covered once, and exactly those channels coupled that must be."""

import copy

import numpy as np
import pytest
import torch
import torch_pruning
from torch import nn

from mtc_perception.util.errors import UserError
from offline_compress.channels.groups import ChannelGroup
from offline_compress.channels.surgery import keep_channels
from offline_compress.models.registry import ModelSpec
from support.pruning_tools import (
    STRUCTURES,
    answers,
    assert_equal_but_for_rounding,
    image,
    network,
    registry_groups,
    some_channels,
    spec_of,
)


def tiny() -> nn.Module:
    arguments = {"stem": 8, "widths": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "pyramid": 16}
    arguments |= {"pyramid_depth": 1, "mask": 8, "drivable": 4, "lane": 6}
    return ModelSpec("tiny", "conv_multitask", arguments, ["vehicle"], 64, 96).build()


@torch.no_grad()
def switch_off(model: nn.Module, group: ChannelGroup, channels: list[int]) -> None:
    """Make channels of a group zero wherever they are produced: at the BatchNorms, and at filters
    and linear layers that none follows."""
    layers = dict(model.named_modules())
    outs = {s.layer: s.index[channels].ravel() for s in group.slices if s.side == "out"}
    for layer, index in outs.items():
        module = layers.get(layer)
        parent, _, last = layer.rpartition(".")
        behind = layers.get(f"{parent}.{'bn' if last == 'conv' else 1}")
        if isinstance(module, nn.ConvTranspose2d):
            module.weight[:, index] = 0
            module.bias[index] = 0
        elif isinstance(module, nn.BatchNorm2d | nn.Linear) or (
            isinstance(module, nn.Conv2d) and not isinstance(behind, nn.BatchNorm2d)
        ):
            module.weight[index] = 0
            module.bias[index] = 0


@pytest.mark.slow
@pytest.mark.parametrize("name", STRUCTURES)
def test_channels_that_are_switched_off_can_go(name: str) -> None:
    model = network(spec_of(name)).double()
    groups = registry_groups(model)
    kept = some_channels(groups, 0.6)
    for group in groups:
        if group.name in kept:
            off = sorted(set(range(group.size)) - set(kept[group.name]))
            switch_off(model, group, off)
    pruned = copy.deepcopy(model)
    keep_channels(pruned, groups, kept)
    assert_equal_but_for_rounding(pruned, model)
    assert min(answer.std() for answer in answers(model)) > 1e-4


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_layer_is_covered_once_per_side(name: str) -> None:
    """But for what attention leaves of transformers, of which the next test is."""
    model = spec_of(name).build()

    def around_attention(layer: str) -> bool:
        inside = layer.startswith(("encoder.attend.", "detection_head."))
        return inside and name.startswith("rmt") and "detection_head.project" not in layer

    covered: dict[tuple[str, str], list[int]] = {}
    for group in registry_groups(model):
        for part in group.slices:
            assert len(part.index) == group.size
            if not around_attention(part.layer):
                covered.setdefault((part.layer, part.side), []).extend(part.index.ravel())
    expected: dict[tuple[str, str], int] = {}
    for layer, module in model.named_modules():
        if around_attention(layer):
            continue
        behind_attention = name.startswith("rmt") and layer == "encoder.lateral.1.0"
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            expected[layer, "out"] = module.out_channels
            if module.in_channels > 3 and module.groups == 1 and not behind_attention:
                expected[layer, "in"] = module.in_channels
        elif isinstance(module, nn.BatchNorm2d):
            expected[layer, "out"] = module.num_features
        elif hasattr(module, "blend"):
            expected[f"{layer}.blend", "out"] = module.blend.numel()
    assert {key: sorted(index) for key, index in covered.items()} == {
        key: list(range(width)) for key, width in expected.items()
    }


@pytest.mark.parametrize(
    ("maker", "reader", "width"),
    [
        ("encoder.attend.expand", "encoder.attend.reduce", 512),
        ("detection_head.layers.1.feed_forward.0", "detection_head.layers.1.feed_forward.2", 512),
        ("detection_head.box_heads.2.0", "detection_head.box_heads.2.2", 128),
        ("detection_head.position.0", "detection_head.position.2", 256),
    ],
)
def test_hidden_widths_of_transformers_can_go(maker: str, reader: str, width: int) -> None:
    groups = {group.name: group for group in registry_groups(spec_of("rmt_ppad_n").build())}
    group = groups[maker]
    assert (group.size, group.protected) == (width, "")
    assert [(part.layer, part.side) for part in group.slices] == [(maker, "out"), (reader, "in")]


def test_groups_by_hand() -> None:
    groups = {group.name: group for group in registry_groups(tiny())}

    def parts(name: str) -> dict[tuple[str, str], tuple[int, int, int]]:
        """First channel, last channel and repeats of every layer in a group."""
        return {
            (s.layer, s.side): (int(s.index[0, 0]), int(s.index[-1, -1]), s.index.shape[1])
            for s in groups[name].slices
        }

    # Residuals: what enters, and what each block adds to it.
    block = "backbone.stages.0.1"
    assert parts(f"{block}.enter.0") == {
        (f"{block}.enter.0", "out"): (0, 3, 1),
        (f"{block}.enter.1", "out"): (0, 3, 1),
        (f"{block}.residuals.0.reduce.0", "in"): (0, 3, 1),
        (f"{block}.residuals.0.expand.0", "out"): (0, 3, 1),
        (f"{block}.residuals.0.expand.1", "out"): (0, 3, 1),
        (f"{block}.merge.0", "in"): (0, 3, 1),
    }
    # Concatenation: the half that skips the residuals comes second.
    assert parts(f"{block}.skip.0")[f"{block}.merge.0", "in"] == (4, 7, 1)
    # Pooling: the same channels four times.
    pooled = groups["backbone.context.enter.0"].slices[-1]
    assert (pooled.layer, pooled.side) == ("backbone.context.merge.0", "in")
    np.testing.assert_array_equal(pooled.index, np.arange(48).reshape(4, 12).T)
    # Sums in the pyramid couple the lateral convolutions of the two coarse levels.
    outs = {layer for layer, side in parts("encoder.lateral.1.0") if side == "out"}
    names = ("lateral.1", "lateral.2", "down.1")
    assert outs == {f"encoder.{name}.{i}" for name in names for i in (0, 1)}
    assert groups["detection_head.tower.0.0"].size == 16
    assert [group for group in groups.values() if group.protected] == [
        groups[name]
        for name in groups
        if ".classify." in name or ".regress." in name or name.endswith(".predict")
    ]


def test_groups_come_in_forward_order_and_survive_pruning() -> None:
    model = tiny()
    groups = registry_groups(model)
    names = [group.name for group in groups]
    assert names[0] == "backbone.stem.0"
    assert names[-1] == "lane_head.predict"
    keep_channels(model, groups, some_channels(groups, 0.5))
    after = registry_groups(model)
    assert [group.name for group in after] == names
    for one, other in zip(groups, after, strict=True):
        assert [(s.layer, s.side) for s in one.slices] == [(s.layer, s.side) for s in other.slices]
        assert other.size == (one.size if one.protected else max(1, one.size // 2))


@pytest.mark.parametrize("name", ["mtc_xs", "rmt_ppad_n"])
def test_cutting_agrees_with_torch_pruning(name: str) -> None:
    """The same channels removed one group after the other by Torch-Pruning itself."""
    model = network(spec_of(name))
    groups = registry_groups(model)
    kept = some_channels(groups, 0.7)
    reference = copy.deepcopy(model)
    if name == "rmt_ppad_n":  # Left out: Torch-Pruning cannot cut the decoder's inside.
        kept = {key: value for key, value in kept.items() if key.startswith("backbone.")}
    graph = torch_pruning.DependencyGraph().build_dependency(
        reference,
        image(),
        output_transform=lambda output: [*output.features.values(), output.drivable],
        verbose=False,
    )
    keep_channels(model, groups, kept)
    layers = dict(reference.named_modules())
    for group in groups:
        if group.name in kept and not group.name.startswith(("detection_head", "lane_head")):
            removed = sorted(set(range(group.size)) - set(kept[group.name]))
            prune = torch_pruning.prune_conv_out_channels
            graph.get_pruning_group(layers[group.name], prune, removed).prune()
    found, wanted = model.state_dict(), reference.state_dict()
    compared = 0
    for key in wanted:
        if not key.startswith(("detection_head", "lane_head")):
            assert torch.equal(found[key], wanted[key]), key
            compared += 1
    assert compared > 100


def test_taps_name_their_channels() -> None:
    for name in ("mtc_xs", "mtc_s_lite0", "rmt_ppad_n"):
        model = network(spec_of(name))
        with torch.no_grad():
            features = model(image()).features
        groups = registry_groups(model)
        for tap, feature in features.items():
            fed = np.concatenate([group.taps[tap] for group in groups if tap in group.taps])
            assert sorted(fed) == list(range(feature.shape[1]))


def test_protected_parts_keep_their_outputs() -> None:
    groups = registry_groups(tiny(), ["lane_head", "backbone.stages.3.0.0"])
    named = [group.name for group in groups if "protect" in group.protected]
    assert named == ["backbone.stages.3.0.0", "lane_head.tower.0"]
    reasons = {
        group.name: group.protected for group in registry_groups(spec_of("rmt_ppad_n").build())
    }
    assert reasons["encoder.project.2.0"].endswith("what is not followed in encoder.attend")
    assert "detection_head." in reasons["detection_head.project.0.0"]
    assert reasons["mask_decoder.heads.0.predict"].startswith("read with weights that are comp")


@pytest.mark.parametrize(
    ("name", "hint"), [("lane_heda", "lane_head"), ("", "backbone"), ("lane_head.tower.2", "tower")]
)
def test_unknown_parts_to_protect_are_refused(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"protect names '{name}'.*{hint}"):
        registry_groups(tiny(), [name])


def test_a_layer_that_does_not_run_is_named() -> None:
    model = tiny()
    model.backbone.unused = nn.Conv2d(8, 8, 1)
    with pytest.raises(UserError, match=r"backbone\.unused takes no part .*name it under opaque"):
        registry_groups(model)


def test_the_network_itself_stays_as_it_is() -> None:
    model = tiny().train()
    model.backbone.requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        registry_groups(model)
    assert model.training
    assert not next(model.backbone.parameters()).requires_grad
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())

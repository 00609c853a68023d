"""A network begins with the weights of one with other classes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mtc_perception.util.errors import UserError
from offline_compress.channels.surgery import keep_channels, pruned_spec
from offline_compress.models.class_change import class_axes, load_start
from offline_compress.models.registry import (
    MODELS,
    load_checkpoint,
    load_spec,
    model_spec,
    read_weights,
    save_checkpoint,
)
from offline_compress.recipe.recipe import load_recipe
from offline_compress.training.lineage import trained_spec
from support.checkout import ROOT
from support.pruning_tools import registry_groups
from support.tiny_training import tiny_recipe

HEADS = {"conv_multitask": "classify", "lite_multitask": "classify", "rmt_ppad": "score"}


@pytest.mark.parametrize("name", MODELS)
def test_the_tensors_of_classes_are_those_of_the_detection_head(name: str) -> None:
    axes = class_axes(model_spec(name, ["car", "bus"], 64, 96))
    assert set(axes.values()) == {0}
    assert {key.split(".")[0] for key in axes} == {"detection_head"}
    assert any(HEADS[MODELS[name][0]] in key for key in axes)


@pytest.mark.parametrize("name", ["mtc_xs", "rmt_ppad_n"])
def test_a_class_keeps_its_weights_wherever_it_stands(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = model_spec(name, ["car", "bus"], 64, 96)
    save_checkpoint(tmp_path, start, start.build())
    spec = replace(start, classes=["bicycle", "bus", "car"])
    model = spec.build()
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    assert load_start(model, spec, tmp_path) == ["bicycle"]
    before, after = read_weights(tmp_path), model.state_dict()
    axes = class_axes(spec)
    assert len(axes) > 3
    for key, value in after.items():
        if key not in axes:
            assert torch.equal(value, before[key]), key
            continue
        assert torch.equal(value[0], fresh[key][0]), key
        assert torch.equal(value[1], before[key][1]), key
        assert torch.equal(value[2], before[key][0]), key
        assert torch.equal(value[3:], fresh[key][3:]), key


def test_other_networks_are_refused_in_one_line(tmp_path: Path) -> None:
    start = model_spec("mtc_xs", ["car"], 64, 96)
    save_checkpoint(tmp_path, start, start.build())
    spec = model_spec("mtc_s", ["car", "bus"], 64, 96)
    with pytest.raises(UserError, match=r"does not fit the network: .* and \d+ more"):
        load_start(spec.build(), spec, tmp_path)


def test_what_is_shipped_learns_other_classes() -> None:
    """The recipe of it, up to the first weights."""
    recipe = load_recipe(ROOT / "config/recipes/fine_tune.yaml")
    assert recipe.start_from is not None
    path = ROOT / recipe.start_from
    start = load_spec(path)
    assert (start.name, start.classes) == (recipe.model, recipe.class_map.names)
    assert start.licence.split(": ")[0] == recipe.licence.split(": ")[0]
    spec = replace(start, classes=["vehicle", "pedestrian"])
    model = spec.build()
    load_start(model, spec, path)
    shipped = load_checkpoint(path)
    key = "detection_head.classify.0.weight"
    assert torch.equal(model.state_dict()[key][:1], shipped.state_dict()[key])


@pytest.mark.parametrize("origin", ["start_from", "shape_of"])
def test_a_pruned_network_learns_other_classes(dataset: Path, tmp_path: Path, origin: str) -> None:
    whole = model_spec("tiny", ["vehicle"], 128, 192)
    model = whole.build()
    groups = registry_groups(model)
    kept = {group.name: list(range(group.size // 2)) for group in groups if not group.protected}
    keep_channels(model, groups, kept)
    save_checkpoint(tmp_path, pruned_spec(whole, model, groups, kept), model)
    key = "detection_head.classify.0.weight"
    assert load_spec(tmp_path).shapes[key] == [1, 4, 1, 1]

    recipe = tiny_recipe(dataset, classes=["pedestrian", "vehicle"], **{origin: tmp_path})
    spec = trained_spec(recipe)
    other = spec.build()
    assert other.state_dict()[key].shape == (2, 4, 1, 1)
    if origin == "start_from":
        assert load_start(other, spec, tmp_path) == ["pedestrian"]
        assert torch.equal(other.state_dict()[key][1:], model.state_dict()[key])
        assert spec.lineage[-1].endswith(", which do not know pedestrian")

"""Plans: replay to the identical network, and refuse what they were not made for."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mtc_perception.core.bundle import sha256_hex
from mtc_perception.util.errors import UserError
from offline_compress.channels.surgery import keep_channels, pruned_spec, shorten_decoder
from offline_compress.models.registry import WEIGHTS_FILE, ModelSpec, save_checkpoint
from offline_compress.pruning.plan import (
    Plan,
    PlanStep,
    apply,
    composed,
    read_plan,
    write_plan,
)
from support.pruning_tools import network, registry_groups, some_channels, spec_of


def teacher(name: str, folder: Path) -> tuple[ModelSpec, nn.Module, str]:
    spec = spec_of(name)
    model = network(spec)
    save_checkpoint(folder, spec, model)
    return spec, model, sha256_hex((folder / WEIGHTS_FILE).read_bytes())


def assert_same(one: nn.Module, other: nn.Module) -> None:
    state = other.state_dict()
    assert one.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize(("name", "layers"), [("mtc_xs", None), ("rmt_ppad_n", 2)])
def test_two_steps_replay_as_one(name: str, layers: int | None, tmp_path: Path) -> None:
    spec, model, sha256 = teacher(name, tmp_path)
    if layers:
        model, spec = shorten_decoder(model, spec, layers, None)
    original = registry_groups(model)
    total: dict[str, list[int]] = {}
    for seed, share in ((1, 0.8), (2, 0.7)):
        groups = registry_groups(model)
        kept = some_channels(groups, share, seed)
        for group in groups[seed::5]:
            kept.pop(group.name, None)  # Some groups lose channels in one step only.
        keep_channels(model, groups, kept)
        spec = pruned_spec(spec, model, groups, kept)
        total = composed(original, total, kept)
    plan = Plan(teacher=name, teacher_sha256=sha256, decoder_layers=layers, kept=total)
    write_plan(tmp_path / "plan.json", plan)
    again, replayed = apply(read_plan(tmp_path / "plan.json"), tmp_path)
    assert again == spec
    assert_same(replayed, model)
    assert not replayed.training


def test_composition_by_hand() -> None:
    groups = [g for g in registry_groups(spec_of("mtc_xs").build()) if g.size == 16]
    first, second, third, *_ = (group.name for group in groups)
    before = {first: [9, 1, 5, 7], second: [0, 3]}
    after = {first: [3, 0], third: [2, 4]}
    assert composed(groups, before, after) == {first: [1, 9], second: [0, 3], third: [2, 4]}
    assert composed(groups, {}, {first: range(16)}) == {}


def test_an_empty_plan_is_the_teacher(tmp_path: Path) -> None:
    spec, model, sha256 = teacher("mtc_xs", tmp_path)
    again, replayed = apply(Plan(teacher="mtc_xs", teacher_sha256=sha256), tmp_path)
    assert again == spec
    assert_same(replayed, model)


def test_plans_refuse_other_teachers_and_channels(tmp_path: Path) -> None:
    *_, sha256 = teacher("mtc_xs", tmp_path)
    with pytest.raises(UserError, match=f"weights of big with sha256 000000000000.*{sha256[:12]}"):
        apply(Plan(teacher="big", teacher_sha256="0" * 64), tmp_path)
    plan = Plan(teacher="mtc_xs", teacher_sha256=sha256, kept={"backbone.stem.0": [0, 99]})
    with pytest.raises(UserError, match=r"backbone\.stem\.0 has the channels 0 to 15"):
        apply(plan, tmp_path)
    with pytest.raises(UserError, match="no query decoder"):
        apply(plan.model_copy(update={"decoder_layers": 2}), tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        apply(plan, tmp_path / "nowhere")


def test_plans_are_json_that_comes_back(tmp_path: Path) -> None:
    step = PlanStep(
        budget={"parameters": 0.8},
        channels={"backbone.stem.0": 8},
        parameters=1000,
        gmacs=0.5,
        latency_ms=3.25,
        before={"detection": 80.5},
        after={"detection": 80.0},
    )
    plan = Plan(teacher="t", teacher_sha256="a" * 64, steps=[step], kept={"backbone.stem.0": [1]})
    path = tmp_path / "plan.json"
    write_plan(path, plan)
    assert read_plan(path) == plan
    assert json.loads(path.read_text())["kept"] == {"backbone.stem.0": [1]}
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"schema_version": 2, "teacher": "t", "teacher_sha256": "' + "a" * 64 + '"}',
        '{"teacher": "t", "teacher_sha256": "x"}',
        '{"teacher": "t", "teacher_sha256": "' + "a" * 64 + '", "kept": {"a": [-1]}}',
        '{"teacher": "t", "teacher_sha256": "' + "a" * 64 + '", "wheels": 4}',
    ],
)
def test_damaged_plans_are_refused_in_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"plan .*plan\.json is none of this version: ") as caught:
        read_plan(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="does not exist"):
        read_plan(tmp_path / "other.json")

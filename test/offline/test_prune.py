"""The whole schedule on a miniature network: budgets, resuming, replay and dry run."""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mtc_perception.util.errors import UserError
from offline_compress.export import count_gmacs, count_parameters
from offline_compress.models.registry import load_checkpoint, load_spec, model_spec, save_checkpoint
from offline_compress.pruning.latency_table import LatencyTable
from offline_compress.pruning.plan import Plan, read_plan
from offline_compress.pruning.prune import dry_run, prune_network, replay
from offline_compress.pruning.selection import floor_of
from offline_compress.recipe.parts import InputPx
from offline_compress.training.trainer import Trainer
from support.checkout import ROOT
from support.pruning_rig import HEIGHT, WIDTH, Validation, recipe_of, same_weights
from support.pruning_tools import registry_groups
from support.tiny_training import tiny_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("untimed")]


@pytest.fixture(scope="module")
def pruned(
    dataset: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Plan, Validation]:
    """A whole pruning."""
    out, validation = tmp_path_factory.mktemp("runs") / "pruned", Validation()
    plan = prune_network(recipe_of(dataset), teacher, out, validation)
    return out, plan, validation


def test_steps_lead_to_the_budget(
    pruned: tuple[Path, Plan, Validation], teacher: Path, dataset: Path
) -> None:
    out, plan, validation = pruned
    whole = count_parameters(load_checkpoint(teacher))
    assert [step.budget for step in plan.steps] == [{"parameters": 0.8}, {"parameters": 0.6}]
    for step, share in zip(plan.steps, (0.8, 0.6), strict=True):
        assert share - 0.06 < step.parameters / whole <= share
        assert step.remains["parameters"] == pytest.approx(step.parameters / whole, abs=1e-4)
        assert step.latency_ms is None  # Neither in the budget nor the cost.
        assert "latency" not in step.remains
        assert step.locked == 0.03
        assert not step.taken_back
    # The teacher; the first cut, its recovery (as it begins, in it and after it); the last cut.
    first, last = (step.parameters for step in plan.steps)
    assert validation.parameters == [whole, first, first, first, first, last]
    assert plan.steps[0].before == {
        "detection.map50": pytest.approx(0.8),
        "detection.map50_95": pytest.approx(0.6),
        "detection.best_f1": pytest.approx(0.7),
        "drivable.miou": pytest.approx(0.8),
    }
    assert plan.steps[1].before == plan.steps[0].after
    assert plan.steps[1].after == plan.steps[1].cut
    model, spec = load_checkpoint(out / "best"), load_spec(out / "best")
    assert count_parameters(model) == last
    assert count_gmacs(model, HEIGHT, WIDTH) == pytest.approx(plan.steps[1].gmacs)
    assert spec.lineage[-1].startswith(f"pruned to {last} parameters")
    assert spec.lineage[-2].startswith("conv_multitask trained by recipe tiny-step1")
    groups = registry_groups(model)
    assert {g.name: g.size for g in groups if not g.protected} == plan.steps[1].channels
    for group in registry_groups(load_checkpoint(teacher)):
        if not group.protected:
            kept = len(plan.kept.get(group.name, range(group.size)))
            assert kept == plan.steps[1].channels[group.name]
            assert kept == group.size or (
                kept % 4 == 0 and kept >= floor_of(group.size, 4, 0.25, 4)
            )
    picture = cv2.imread(str(out / "channels.png"))
    assert picture.shape[0] > 12 * len(groups)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 4


def test_a_finished_pruning_is_left_as_it_is(
    pruned: tuple[Path, Plan, Validation], dataset: Path, teacher: Path
) -> None:
    out, plan, _ = pruned
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert prune_network(recipe_of(dataset), teacher, out, Validation(fails_at=0)) == plan
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_the_plan_replays_to_the_shape(
    pruned: tuple[Path, Plan, Validation], teacher: Path, tmp_path: Path
) -> None:
    out, plan, _ = pruned
    assert read_plan(out / "plan.json") == plan
    spec = replay(out / "plan.json", teacher, tmp_path / "replayed")
    assert spec.shapes == load_spec(out / "best").shapes
    assert spec.taps == load_spec(out / "best").taps
    whole = load_checkpoint(teacher).backbone.stem[0].weight
    cut = load_checkpoint(tmp_path / "replayed").backbone.stem[0].weight
    kept = plan.kept.get("backbone.stem.0", list(range(len(whole))))
    assert torch.equal(cut, whole[kept])
    with pytest.raises(UserError, match="sha256"):
        replay(out / "plan.json", out / "best", tmp_path / "other")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fails_at", [1, 3, 5])
def test_an_interrupted_pruning_goes_on(
    pruned: tuple[Path, Plan, Validation],
    dataset: Path,
    teacher: Path,
    tmp_path: Path,
    fails_at: int,
) -> None:
    """Stopped after the first cut, in its recovery, and after the last cut."""
    out, plan, validation = pruned
    recipe = recipe_of(dataset)
    stopped = Validation(fails_at=fails_at)
    with pytest.raises(KeyboardInterrupt):
        prune_network(recipe, teacher, tmp_path, stopped)
    assert read_plan(tmp_path / "plan.json").steps == []
    resumed = Validation(parameters=stopped.parameters)
    found = prune_network(recipe, teacher, tmp_path, resumed)
    assert found == plan
    assert same_weights(tmp_path / "best", out / "best")
    assert resumed.parameters == validation.parameters  # Nothing was done twice.


def test_an_impossible_budget_is_told_before_any_step(
    dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(dataset, budget={"parameters": 0.02})
    with pytest.raises(UserError, match=r"budget\.parameters: 0\.020 cannot be reached"):
        prune_network(recipe, teacher, tmp_path, Validation(fails_at=0))
    locked = recipe_of(dataset, budget={"parameters": 0.35}, locked=0.9)
    with pytest.raises(UserError, match=r"parameters: 0\.350 cannot be reached.*without locked"):
        prune_network(locked, teacher, tmp_path, Validation())
    with pytest.raises(UserError, match="says nothing about compression"):
        prune_network(tiny_recipe(dataset), teacher, tmp_path, Validation())


def test_the_folder_of_another_teacher_is_refused(
    pruned: tuple[Path, Plan, Validation], dataset: Path, tmp_path: Path
) -> None:
    out, _, _ = pruned
    shutil.copytree(out, tmp_path / "run")
    torch.manual_seed(5)
    spec = model_spec("tiny", ["vehicle"], HEIGHT, WIDTH)
    save_checkpoint(tmp_path / "other", spec, spec.build().eval())
    with pytest.raises(UserError, match="of another teacher"):
        prune_network(recipe_of(dataset), tmp_path / "other", tmp_path / "run", Validation())


def test_dry_run_trains_nothing(
    dataset: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "__init__", None)
    plan = dry_run(recipe_of(dataset), teacher, tmp_path)
    whole = count_parameters(load_checkpoint(teacher))
    assert 0.54 < plan.steps[1].parameters / whole <= 0.6
    replay(tmp_path / "dry_run.json", teacher, tmp_path / "cut")
    cut = load_checkpoint(tmp_path / "cut")
    assert count_parameters(cut) == plan.steps[1].parameters
    assert count_gmacs(cut, HEIGHT, WIDTH) == pytest.approx(plan.steps[1].gmacs)
    shutil.rmtree(tmp_path / "cut")
    assert not list(tmp_path.rglob("model.safetensors"))
    assert (tmp_path / "dry_run.png").stat().st_size > 1000


@pytest.mark.usefixtures("unchecked")
def test_decoder_layers_go_first(dataset: Path, tmp_path: Path) -> None:
    spec = model_spec("rmt_ppad_n", ["vehicle"], 64, 96)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "teacher", spec, spec.build().eval())
    recipe = recipe_of(dataset, steps=1, decoder_layers=1, budget={"parameters": 0.7})
    size = InputPx(height=64, width=96)
    recipe = recipe.model_copy(update={"model": "rmt_ppad_n", "input": size})
    plan = prune_network(recipe, tmp_path / "teacher", tmp_path / "run", Validation())
    assert plan.decoder_layers == 1
    found, model = load_spec(tmp_path / "run" / "best"), load_checkpoint(tmp_path / "run" / "best")
    assert found.arguments["layers"] == 1
    whole = count_parameters(load_checkpoint(tmp_path / "teacher"))
    assert 0.64 < count_parameters(model) / whole <= 0.7
    assert (
        replay(tmp_path / "run" / "plan.json", tmp_path / "teacher", tmp_path / "r").shapes
        == found.shapes
    )


def test_a_whole_pruning_against_the_engine(dataset: Path, tmp_path: Path) -> None:
    """Profiles, times and loads samples in other processes: nothing of it disturbs the rest."""
    recipe = recipe_of(dataset, budget={"parameters": 0.8}, cost="latency")
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    script = ROOT / "test" / "support" / "tiny_pruning.py"
    run = [sys.executable, str(script), str(tmp_path / "recipe.json"), str(tmp_path)]
    ended = subprocess.run(run, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    out = tmp_path / "pruned"
    plan = read_plan(out / "plan.json")
    assert len(plan.steps) == 2
    # Channels are ranked by the table's milliseconds; no step is timed that none limits.
    assert all(step.latency_ms is None and "latency" not in step.remains for step in plan.steps)
    assert plan.steps[-1].remains["parameters"] <= 0.8
    assert (out / "step_1" / "recovery" / "best").is_dir()
    assert count_parameters(load_checkpoint(out / "best")) == plan.steps[-1].parameters
    table = LatencyTable.load(out / "latency.json")
    assert sum(table.samples[0].layers_ms.values()) > 0

"""The whole schedule on a miniature network: budgets, guard, resuming, replay and dry run."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from tiny_training import register, tiny_recipe
from torch import nn

from mtc_perception.errors import UserError
from mtc_perception.provenance import provenance
from offline_compress.calibration import calibration_batches
from offline_compress.data.synth_dataset import write_dataset
from offline_compress.export import count_gmacs, count_parameters, normalise
from offline_compress.headlines import TASKS, task_scores
from offline_compress.importance import ChannelScores
from offline_compress.latency import conditions
from offline_compress.losses.tasks import task_losses
from offline_compress.models.registry import (
    MODELS,
    ModelSpec,
    load_checkpoint,
    load_spec,
    model_spec,
    save_checkpoint,
)
from offline_compress.prune import dry_run, prune_network, replay
from offline_compress.pruning import checks, choice, schedule, setting
from offline_compress.pruning.checks import broken_guard, check_network, recalibrate
from offline_compress.pruning.choice import Choice, candidates, measured_choice
from offline_compress.pruning.cost import layer_cost, layer_costs
from offline_compress.pruning.groups import ChannelGroup, channel_groups
from offline_compress.pruning.latency import (
    LatencySample,
    LatencyTable,
    deployed,
    sample_counts,
)
from offline_compress.pruning.plan import Plan, PlanStep, read_plan
from offline_compress.pruning.selection import floor_of
from offline_compress.pruning.setting import Setting
from offline_compress.pruning.steps import predicted_step
from offline_compress.pruning.surgery import keep_channels
from offline_compress.pruning.trial import Trial
from offline_compress.recipe import Recipe
from offline_compress.recipe_compression import Guard
from offline_compress.recipe_parts import SizePx
from offline_compress.training.trainer import Trainer
from offline_compress.training.validation import Tick

HEIGHT, WIDTH = 128, 192
SCHEDULE = {
    "epochs": 2,
    "samples_per_epoch": 8,
    "batch": 4,
    "learning_rate": 0.002,
    "weight_decay": 0.01,
    "warmup_epochs": 0.5,
    "ema_decay": 0.9,
    "validate_every_epochs": 1,
}


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    register()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        # The engines themselves are timed in test_pruning_latency.py.
        patch.setattr(choice, "time_pair", lambda *_: (1.0, 2.0, 0.51))
        for module in (choice, setting):
            patch.setattr(module, "deployed", lambda model, *_: model)
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    del MODELS["tiny"]


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what takes seconds and is tested elsewhere: picture, export of every cut."""
    monkeypatch.setattr(schedule, "draw_channels", lambda *_: None)
    monkeypatch.setattr(schedule, "check_network", lambda *_: None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "roads"
    write_dataset(root, 4, WIDTH, HEIGHT, seed=3, workers=1)
    return root


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    spec = model_spec("tiny", ["vehicle"], HEIGHT, WIDTH)
    path = tmp_path_factory.mktemp("teacher") / "best"
    save_checkpoint(path, spec, spec.build().eval())
    return path


def recipe_of(dataset: Path, **prune: Any) -> Recipe:
    """Two steps to 60 % of the parameters, without a latency table, unless told otherwise."""
    rules = {
        "budget": {"parameters": 0.6},
        "cost": "macs",
        "steps": 2,
        "round_to": 4,
        "least_channels": 4,
        "epochs_between": 0.5,
        "guard": {"detection": 100, "drivable": 100, "lane": 100},
    }
    compress = {
        "scoring": {"images": 4, "batch": 2},
        "prune": rules | prune,
        "recover": {"schedule": SCHEDULE},
    }
    return tiny_recipe(dataset, compress=compress)


@dataclass
class Validation:
    """Scores that fall by `loss` with every network validated but the first, and who came."""

    loss: float = 0.001
    parameters: list[int] = field(default_factory=list)
    fails_at: int | None = None

    def __call__(self, model: nn.Module, spec: ModelSpec, tick: Tick) -> dict[str, Any]:
        tick(0, 1)
        if len(self.parameters) == self.fails_at:
            raise KeyboardInterrupt
        self.parameters.append(count_parameters(model))
        score = 0.8 - self.loss * (len(self.parameters) > 1)
        return {
            "detection": {"recall": score, "map50": score - 0.1},
            "drivable": {"miou": score},
            "lane": {"iou": None},
        }


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_checkpoint(path).state_dict() for path in (one, other))
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


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
    # The teacher; the first cut, its recovery (in training and after it); the last cut.
    first, last = (step.parameters for step in plan.steps)
    assert validation.parameters == [whole, first, first, first, last]
    assert plan.steps[0].before == {"detection": pytest.approx(0.75), "drivable": 0.8}
    assert plan.steps[1].before == plan.steps[0].after
    assert plan.steps[1].after == plan.steps[1].cut
    model, spec = load_checkpoint(out / "best"), load_spec(out / "best")
    assert count_parameters(model) == last
    assert count_gmacs(model, HEIGHT, WIDTH) == pytest.approx(plan.steps[1].gmacs)
    assert spec.lineage[-1].startswith(f"pruned to {last} parameters")
    assert spec.lineage[-2].startswith("conv_multitask trained by recipe tiny-step1")
    groups = channel_groups(model)
    assert {g.name: g.size for g in groups if not g.protected} == plan.steps[1].channels
    for group in channel_groups(load_checkpoint(teacher)):
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
@pytest.mark.parametrize("fails_at", [1, 2, 4])
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


@pytest.mark.usefixtures("unchecked")
def test_the_guard_takes_a_step_back(dataset: Path, teacher: Path, tmp_path: Path) -> None:
    guard = {"detection": 100, "drivable": 2.0, "lane": 2.0}
    plan = prune_network(recipe_of(dataset, guard=guard), teacher, tmp_path, Validation(loss=0.025))
    assert len(plan.steps) == 1
    step = plan.steps[0]
    assert step.taken_back == step.taken_back_before == "drivable lost 2.50 points, 2 are allowed"
    assert step.locked == 0.06  # in the second attempt
    assert plan.kept == {}
    assert same_weights(tmp_path / "best", teacher)
    assert prune_network(recipe_of(dataset, guard=guard), teacher, tmp_path, Validation()) == plan


@pytest.mark.usefixtures("unchecked")
def test_a_step_that_was_taken_back_is_done_once_more(
    dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    class Recovering(Validation):
        """Bad until the fourth network: the first attempt's cut, and its recovery twice."""

        def __call__(self, *arguments: Any) -> dict[str, Any]:
            self.loss = 0.025 if len(self.parameters) < 4 else 0.0
            return super().__call__(*arguments)

    recipe = recipe_of(dataset, guard={"detection": 100, "drivable": 2.0, "lane": 2.0})
    plan = prune_network(recipe, teacher, tmp_path, Recovering())
    first, last = plan.steps
    assert (first.taken_back, last.taken_back) == ("", "")
    assert first.taken_back_before == "drivable lost 2.50 points, 2 are allowed"
    assert (first.locked, last.locked) == (0.06, 0.03)
    assert last.remains["parameters"] <= 0.6
    whole = count_parameters(load_checkpoint(teacher))
    assert last.parameters == count_parameters(load_checkpoint(tmp_path / "best")) < 0.6 * whole
    assert not (tmp_path / "step_1" / "again" / "scores.safetensors").exists()
    assert prune_network(recipe, teacher, tmp_path, Validation(fails_at=0)) == plan


def test_guard_compares_with_the_teacher() -> None:
    guard = Guard(detection=5, drivable=2, lane=5)
    teacher = task_scores(
        {"detection": {"recall": 0.9, "map50": 0.7}, "drivable": {"miou": 0.9}, "lane": {}}
    )
    assert teacher == {"detection": pytest.approx(0.8), "drivable": 0.9}
    assert broken_guard(guard, teacher, {"detection": 0.751, "drivable": 0.9}) == ""
    assert broken_guard(guard, teacher, {"detection": 0.99, "drivable": 0.879}).startswith(
        "drivable"
    )
    assert "detection lost 6.00" in broken_guard(guard, teacher, {"detection": 0.74, "drivable": 1})
    unknown = {"detection": 0.8, "drivable": float("nan")}
    assert broken_guard(guard, teacher, unknown) == "the score of drivable is not a number"


def test_a_guard_without_recovery_is_refused(dataset: Path) -> None:
    with pytest.raises(ValidationError, match="epochs_between must not be 0"):
        recipe_of(dataset, epochs_between=0)
    assert recipe_of(dataset, epochs_between=0, guard={})


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
    size = SizePx(height=64, width=96)
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


def latency_setting(dataset: Path, teacher: Path) -> Setting:
    """Two steps to 80 % of the latency, whose table says that time is multiply-accumulates."""
    model = load_checkpoint(teacher)
    groups = channel_groups(model)
    costs = layer_costs(model, groups, HEIGHT, WIDTH)
    coefficients = costs.coefficients.copy()
    coefficients[:, :, 2] = coefficients[:, :, 1] * 1e-6  # ms
    costs = replace(costs, coefficients=coefficients)
    sizes = {group.name: group.size for group in groups if not group.protected}
    recipe = recipe_of(dataset, budget={"latency": 0.8}, cost="latency", round_to=1)
    assert recipe.compress
    return Setting(
        pruning=recipe.compress.prune,
        mask_loss="dice",
        name="tiny",
        sha256="",
        spec=load_spec(teacher),
        model=model,
        groups=groups,
        floors=dict.fromkeys(sizes, 1),
        costs=costs,
        whole=costs.total(sizes),
        network=model,  # type: ignore[arg-type]
        budget={"latency": 0.8},
    )


def chosen(setting: Setting, step: int, before: PlanStep | None = None) -> Choice:
    sizes = {group.name: group.size for group in setting.groups if not group.protected}
    model, groups = setting.model, setting.groups
    found = candidates(setting, model, groups, random_scores(sizes), step, 0, 0.1)
    return measured_choice(setting, model, groups, found, [], step, before, lambda _w, _d, _t: None)


@pytest.mark.parametrize("step", [1, 2])
def test_the_last_step_fits_its_measured_latency(
    dataset: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The engine is less glad of fewer multiply-accumulates than the table says."""
    setting = latency_setting(dataset, teacher)
    times: list[float] = []

    def timed(cut: nn.Module, whole: nn.Module, *_: object) -> tuple[float, float, float]:
        macs = [count_gmacs(network, HEIGHT, WIDTH) for network in (cut, whole)]
        times.append((macs[0] / macs[1]) ** 0.7)
        return 100 * times[-1], 100.0, times[-1]

    monkeypatch.setattr(choice, "time_pair", timed)
    found = chosen(setting, step)
    assert found.ratio == pytest.approx(times[-1])
    if step == 1:
        assert len(times) == 1
        counts = {name: len(channels) for name, channels in found.kept.items()}
        assert setting.costs.total(counts)[2] <= 0.9 * setting.whole[2]
        before = predicted_step(setting, {"latency": 0.9}, found.kept).model_copy(
            update={"remains": {"latency": times[0]}}
        )
        chosen(setting, 1, before)
        assert abs(times[1] - 0.9) < 0.5 * abs(times[0] - 0.9)  # learnt from the step before
    else:
        assert 2 <= len(times) <= 4
        assert times[0] > 0.8 * 1.03
        assert 0.8 * 0.97 <= found.ratio <= 0.8 * 1.01


@pytest.mark.parametrize("offset", [0.02, 0.06])
def test_a_latency_out_of_reach_is_measured_before_it_is_refused(
    dataset: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    """An engine that no cut makes faster than `offset` above the budget."""
    setting = latency_setting(dataset, teacher)
    gmacs: list[float] = []

    def timed(cut: nn.Module, *_: object) -> tuple[float, float, float]:
        gmacs.append(count_gmacs(cut, HEIGHT, WIDTH))
        ratio = 0.8 + offset if len(gmacs) > 1 else 0.95
        return ratio, 1.0, ratio

    monkeypatch.setattr(choice, "time_pair", timed)
    if offset < 0.04:  # 5 % of the budget
        assert chosen(setting, 2).ratio == pytest.approx(0.82)
    else:
        refused = r"budget\.latency: 0\.800 cannot be reached.*measured at 0\.860.*times what its"
        with pytest.raises(UserError, match=refused):
            chosen(setting, 2)
    assert len(gmacs) > 2
    assert gmacs == sorted(gmacs, reverse=True)


def test_a_table_that_does_not_fit_is_measured_again(
    dataset: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(dataset, cost="latency")
    wild = iter([True, False, True, True])

    def table(model: nn.Module, groups: list[ChannelGroup], *_: object) -> LatencyTable:
        costs, disturbed, samples = layer_costs(model, groups, HEIGHT, WIDTH), next(wild), []
        for number, counts in enumerate(sample_counts(groups, 4)):
            macs = layer_cost(costs.coefficients, *costs.widths(counts))[:, 1]
            layers_ms = dict(zip(costs.layers, (macs * 1e-6).tolist(), strict=True))
            total_ms = 1.0 + 8 * (number % 2) if disturbed else float(macs.sum()) * 2e-6
            samples.append(LatencySample(counts, total_ms, layers_ms))
        machine = provenance()["machine"] | conditions()
        return LatencyTable("openvino", HEIGHT, WIDTH, samples, samples[0].total_ms, machine)

    def opened(out: Path, measures: bool = True) -> Setting:
        return setting.open_setting(recipe, teacher, out, measures, lambda _w, _d, _t: None)

    monkeypatch.setattr(setting, "measure_table", table)
    (tmp_path / "busy").mkdir()
    costs = opened(tmp_path).costs
    path = tmp_path / "latency.json"
    np.testing.assert_array_equal(opened(tmp_path).costs.coefficients, costs.coefficients)
    with pytest.raises(UserError, match="too busy to measure latency"):
        opened(tmp_path / "busy")
    assert not list((tmp_path / "busy").iterdir())
    found = json.loads(path.read_text())
    for change in ({"height": 64}, {"measured": found["measured"] | {"cpu": "another"}}):
        path.write_text(json.dumps(found | change))
        with pytest.raises(UserError, match="image size or machine; delete it"):
            opened(tmp_path)
    assert opened(tmp_path, measures=False)  # by a process that times nothing


def test_a_group_is_cut_no_deeper_than_the_tasks_bear(dataset: Path, teacher: Path) -> None:
    """Every group to 4 channels, tried against losses that are computed anew here."""
    recipe = recipe_of(dataset)
    assert recipe.compress
    batches = list(calibration_batches(recipe, recipe.compress.scoring))
    model = load_checkpoint(teacher)
    groups = channel_groups(model)
    generator = np.random.default_rng(1)
    value = {g.name: generator.random(g.size) for g in groups if not g.protected}

    def best(name: str, count: int) -> NDArray[np.int64]:
        return np.sort(np.argsort(-value[name])[:count])

    def rise(name: str, count: int) -> float:
        losses = []
        for kept in (len(value[name]), count):
            cut = load_checkpoint(teacher)
            keep_channels(cut, groups, {name: best(name, kept).tolist()})
            with torch.no_grad():
                outputs = [cut(normalise(batch.images)) for batch in batches]
            parts = [
                task_losses(o, b.targets, recipe.mask_loss)
                for o, b in zip(outputs, batches, strict=True)
            ]
            losses.append([sum(float(getattr(p, t)) for p in parts) for t in TASKS])
        return max(after / before - 1 for before, after in zip(*losses, strict=True))

    rises = {name: rise(name, 4) for name in value}
    largest = float(np.median(list(rises.values())))
    trial = Trial(
        model, groups, value, batches, recipe.mask_loss, largest, 4, lambda _w, _d, _t: None
    )
    kept = {name: best(name, 4) for name in value}
    assert trial.limit(kept)
    assert trial.fewest.keys() == {name for name in value if rises[name] > largest * (1 + 1e-5)}
    for name, count in trial.fewest.items():
        assert 4 < count <= len(value[name])
        assert count == len(value[name]) or rise(name, count) <= largest
    held = {name: best(name, trial.fewest.get(name, 4)) for name in value}
    assert not trial.limit(held)
    before = load_checkpoint(teacher).state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def random_scores(sizes: dict[str, int]) -> ChannelScores:
    generator = np.random.default_rng(0)
    return ChannelScores(
        taylor={name: generator.random((3, size)) for name, size in sizes.items()},
        joint={name: generator.random(size) for name, size in sizes.items()},
        conflict={name: generator.random((3, size)) for name, size in sizes.items()},
        images=4,
        batches=2,
        labelled=(2, 2, 2),
        together=(2, 2, 2),
    )


def test_statistics_are_those_of_the_calibration_images(dataset: Path, teacher: Path) -> None:
    recipe = recipe_of(dataset)
    assert recipe.compress
    batches = calibration_batches(recipe, recipe.compress.scoring)
    model = load_checkpoint(teacher)
    norm = model.backbone.stem[1]
    torch.nn.init.constant_(norm.running_mean, 7.0)
    recalibrate(model, batches, lambda _d, _t: None)
    with torch.no_grad():
        outputs = [model.backbone.stem[0](normalise(batch.images)).double() for batch in batches]
    mean = torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0)
    variance = torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0)
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1
    assert not any(module.training for module in model.modules())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recalibrate(model, batches, lambda _d, _t: None)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_broken_network_is_refused(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_checkpoint(teacher)
    groups = channel_groups(model)
    floors = {group.name: min(4, group.size) for group in groups}
    check_network(model, groups, floors, (HEIGHT, WIDTH))
    with pytest.raises(UserError, match=r"backbone\.stem\.0 has 8 channels, fewer than 12"):
        check_network(model, groups, floors | {"backbone.stem.0": 12}, (HEIGHT, WIDTH))
    torch.manual_seed(9)
    other = deployed(model_spec("tiny", ["vehicle"], HEIGHT, WIDTH).build().eval(), HEIGHT, WIDTH)
    with monkeypatch.context() as patch:
        patch.setattr(checks, "deployed", lambda *_: other)
        with pytest.raises(UserError, match="something else once exported"):
            check_network(model, groups, floors, (HEIGHT, WIDTH))
    torch.nn.init.constant_(model.lane_head.predict.bias, float("nan"))
    torch.nn.init.constant_(model.detection_head.classify[0].bias, float("nan"))
    with pytest.raises(UserError, match="not finite"):
        check_network(model, groups, floors, (HEIGHT, WIDTH))


def test_a_whole_pruning_against_the_engine(dataset: Path, tmp_path: Path) -> None:
    """Profiles, times and loads samples in other processes: nothing of it disturbs the rest."""
    recipe = recipe_of(dataset, budget={"parameters": 0.8}, cost="latency")
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    script = Path(__file__).with_name("tiny_pruning.py")
    run = [sys.executable, str(script), str(tmp_path / "recipe.json"), str(tmp_path)]
    ended = subprocess.run(run, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    out = tmp_path / "pruned"
    plan = read_plan(out / "plan.json")
    assert len(plan.steps) == 2
    for step in plan.steps:
        assert step.latency_ms is not None
        assert step.latency_ms > 0
        assert 0 < step.remains["latency"] < 2
    assert plan.steps[-1].remains["parameters"] <= 0.8
    assert (out / "step_1" / "recovery" / "best").is_dir()
    assert count_parameters(load_checkpoint(out / "best")) == plan.steps[-1].parameters
    table = LatencyTable.load(out / "latency.json")
    assert sum(table.samples[0].layers_ms.values()) > 0

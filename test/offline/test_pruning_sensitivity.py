"""What widths are worth: measured after recalibration, and what a pruning makes of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mtc_perception.core.tasks import TASKS
from mtc_perception.util.errors import UserError
from offline_compress.channels.surgery import Kept, keep_channels
from offline_compress.export import count_parameters, normalise
from offline_compress.importance.calibration import calibration_batches
from offline_compress.importance.multi_task import description_of
from offline_compress.losses.task_losses import task_losses
from offline_compress.models.registry import load_checkpoint, load_spec
from offline_compress.pruning import sensitivity as module
from offline_compress.pruning.checks import recalibrate
from offline_compress.pruning.cost import layer_costs
from offline_compress.pruning.prune import dry_run, prune_network, replay
from offline_compress.pruning.selection import WidthLimits
from offline_compress.pruning.sensitivity import (
    RESOLUTION,
    UNBEARABLE,
    MeasuredWidth,
    Sensitivity,
    measure_sensitivity,
    measured_widths,
)
from offline_compress.report.compression_charts import loss_over_cost
from support.pruning_rig import HEIGHT, WIDTH, Validation, recipe_of
from support.pruning_tools import registry_groups

NONE = (0.0, 0.0, 0.0)
MEASURED = Sensitivity(
    (2.0, 0.5, 0.0),
    {
        "inner": [
            MeasuredWidth(32, (2.0, 0.5, 0.0), NONE),
            MeasuredWidth(24, (2.1, 0.4, 0.0), (10.0, 20.0, 0.1)),
            MeasuredWidth(8, (2.2, 1.0, 9.0), (30.0, 60.0, 0.3)),
            MeasuredWidth(0, (2.0, 0.6, 0.0), (40.0, 80.0, 0.9)),
        ],
        "free": [
            MeasuredWidth(16, (2.0, 0.5, 0.0), NONE),
            MeasuredWidth(8, (1.9, float("nan"), 0.0), NONE),
            MeasuredWidth(4, (1.9, 0.5, 0.0), NONE),
        ],
    },
)


NONE_LOCKED = {"inner": np.zeros(32, bool), "free": np.zeros(16, bool)}
LIMITS = WidthLimits({"inner": 4, "free": 4}, NONE_LOCKED, 4, blocks={"inner"})


def test_the_task_that_loses_most_counts() -> None:
    """Relative to its own loss; one without labels says nothing."""
    assert MEASURED.rises("inner") == pytest.approx([0.0, 0.05, 1.0, 0.2])
    assert MEASURED.rises("free").tolist() == [0.0, UNBEARABLE, 0.0]


def test_curves_interpolate_what_was_measured() -> None:
    curve = MEASURED.curves({"inner": 32}, LIMITS)["inner"]
    assert curve.channels.tolist() == [32, 28, 24, 20, 16, 12, 8, 0]  # 4 was not measured
    rises = [0, 0.025, 0.05, 0.2875, 0.525, 0.7625, 1.0, 1.0]  # never less with less
    assert curve.losses == pytest.approx(rises)
    # A network that is narrower by now, whose block must stay.
    curve = MEASURED.curves({"inner": 20}, replace(LIMITS, blocks=set()))["inner"]
    assert curve.channels.tolist() == [20, 16, 12, 8]
    assert curve.losses == pytest.approx(rises[3:7])


def test_nothing_is_free() -> None:
    free = replace(MEASURED, groups={"free": [MEASURED.groups["free"][n] for n in (0, 2)]})
    curve = free.curves({"free": 16}, LIMITS)["free"]
    assert curve.losses == pytest.approx([0, RESOLUTION / 4, RESOLUTION / 2, 0.75 * RESOLUTION])


@pytest.mark.parametrize(
    ("allowed", "measured"),
    [
        ([64, 56, 48, 40, 32, 24, 16, 0], [48, 32, 16, 0]),
        ([64, 56, 48, 40, 32, 24, 16, 8], [48, 32, 16, 8]),
        ([64, 56, 48, 40], [48, 40]),
        ([16, 8], [8]),
        ([16], []),
        ([16, 0], [0]),
    ],
)
def test_a_few_widths_are_measured(allowed: list[int], measured: list[int]) -> None:
    assert measured_widths(np.array(allowed)) == measured


def test_what_is_saved_comes_back_and_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.json"
    known = replace(MEASURED, groups={"inner": MEASURED.groups["inner"]})
    known.save(path)
    again = Sensitivity.load(path)
    assert again.rises("inner").tolist() == known.rises("inner").tolist()
    assert [width.channels for width in again.groups["inner"]] == [32, 24, 8, 0]
    for text in ("{", "[]", "{}", json.dumps({"losses": [1], "groups": {"a": [{"size": 1}]}})):
        path.write_text(text)
        with pytest.raises(UserError, match="holds no measured widths"):
            Sensitivity.load(path)
    for by_time, unit in ((True, "ms"), (False, "thousand parameters")):
        page = loss_over_cost(MEASURED, {"inner": 0, "free": 8}, by_time)
        assert f"saved, {unit}" in page
        assert ">inner<" in page


@pytest.mark.slow
def test_each_width_is_measured_alone_and_recalibrated(
    dataset: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(dataset)
    assert recipe.compress
    batches = list(calibration_batches(recipe, recipe.compress.scoring))
    model = load_checkpoint(teacher)
    groups = registry_groups(model)
    chosen = [next(group for group in groups if group.block), groups[0]]
    value = {group.name: np.arange(float(group.size)) for group in chosen}
    rules = WidthLimits(
        dict.fromkeys(value, 4),
        {name: np.zeros(len(own), bool) for name, own in value.items()},
        4,
        blocks={chosen[0].name},
    )
    costs, path = (
        layer_costs(model, groups, (torch.zeros(1, 3, HEIGHT, WIDTH),)),
        tmp_path / "sensitivity.json",
    )

    def measure() -> Sensitivity:
        return measure_sensitivity(
            model,
            groups,
            value,
            rules,
            costs,
            batches,
            description_of(model),
            path,
            lambda _w, _d, _t: None,
        )

    found = measure()

    def losses(kept: dict[str, list[int]]) -> list[float]:
        cut = load_checkpoint(teacher)
        keep_channels(cut, groups, kept)
        recalibrate(cut, batches, description_of(cut), lambda _d, _t: None)
        with torch.no_grad():
            outputs = [cut(normalise(batch.images)) for batch in batches]
        parts = [task_losses(o, b.targets) for o, b in zip(outputs, batches, strict=True)]
        return [float(np.mean([float(getattr(p, t)) for p in parts])) for t in TASKS]

    assert found.losses == pytest.approx(losses({}), rel=1e-4)
    for name, widths in found.groups.items():
        size = len(value[name])
        assert widths[0].channels == size
        assert widths[-1].channels == (0 if name == chosen[0].name else 4)
        for width in widths[1:]:
            best = list(range(size - width.channels, size))
            assert width.losses == pytest.approx(losses({name: best}), rel=1e-4)

    # What is there is not measured again.
    replace(found, groups={chosen[0].name: found.groups[chosen[0].name]}).save(path)
    tried = []

    def counted(_model: nn.Module, _groups: object, kept: Kept, *_: object) -> np.ndarray:
        tried.append(*kept)
        return np.ones(3)

    monkeypatch.setattr(module, "losses_of_cut", counted)
    resumed = measure()
    assert set(tried) == {chosen[1].name}
    assert resumed.groups[chosen[0].name] == found.groups[chosen[0].name]
    assert Sensitivity.load(path) == resumed


@pytest.mark.slow
@pytest.mark.usefixtures("untimed", "unchecked")
def test_a_pruning_by_measured_widths(dataset: Path, teacher: Path, tmp_path: Path) -> None:
    """To the end, with residual blocks that turn out to be worth nothing."""
    recipe = recipe_of(dataset, allocation="sensitivity", budget={"parameters": 0.5}, locked=0)
    out = tmp_path / "pruned"
    model = load_checkpoint(teacher)
    blocks = {group.name: group for group in registry_groups(model) if group.block}
    worthless = {
        group.name: [
            MeasuredWidth(group.size, (1.0, 1.0, 1.0), NONE),
            MeasuredWidth(0, (1.0, 1.0, 1.0), NONE),
        ]
        for group in blocks.values()
    }
    (out / "step_1").mkdir(parents=True)
    Sensitivity((1.0, 1.0, 1.0), worthless).save(out / "step_1" / "sensitivity.json")
    plan = prune_network(recipe, teacher, out, Validation())
    whole = count_parameters(model)
    assert plan.steps[-1].parameters <= 0.5 * whole
    spec, student = load_spec(out / "best"), load_checkpoint(out / "best")
    assert count_parameters(student) == plan.steps[-1].parameters
    gone = {name for name, count in plan.steps[0].channels.items() if count == 0}
    assert gone
    assert gone <= blocks.keys()
    assert {blocks[name].block for name in gone} <= set(spec.removed)
    assert all(plan.kept[name] == [] for name in gone)
    assert not gone & plan.steps[1].channels.keys()
    assert replay(out / "plan.json", teacher, tmp_path / "replayed").shapes == spec.shapes
    assert load_spec(tmp_path / "replayed").removed == spec.removed
    later = Sensitivity.load(out / "step_2" / "sensitivity.json")
    assert later.groups.keys() == plan.steps[0].channels.keys() - gone
    assert all(width.saved[0] > 0 for width in later.groups["backbone.stem.0"][1:])
    dry = dry_run(recipe, teacher, tmp_path / "dry")
    assert dry.steps[-1].parameters <= 0.5 * whole

"""What a cut network must pass: the guard of the tasks, its statistics, its export."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mtc_perception.core.engine import Outputs
from mtc_perception.metrics.figures import judged
from mtc_perception.util.errors import UserError
from offline_compress.export import count_parameters, deployed, normalise
from offline_compress.importance.calibration import calibration_batches
from offline_compress.importance.multi_task import description_of
from offline_compress.models.registry import load_checkpoint, model_spec
from offline_compress.pruning import checks
from offline_compress.pruning.checks import broken_guard, check_network, recalibrate
from offline_compress.pruning.prune import prune_network
from offline_compress.recipe.compression import Guard
from support.pruning_rig import HEIGHT, WIDTH, Validation, recipe_of, same_weights
from support.pruning_tools import registry_groups

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("untimed")]

LOST = "drivable mIoU lost 2.50 points, compress.prune.guard.drivable allows 2"


@pytest.mark.usefixtures("unchecked")
def test_the_guard_takes_a_step_back(dataset: Path, teacher: Path, tmp_path: Path) -> None:
    guard = {"detection": 100, "drivable": 2.0, "lane": 2.0}
    recipe = recipe_of(dataset, guard=guard, locked=0.1, criterion="random")
    plan = prune_network(recipe, teacher, tmp_path, Validation(loss=0.025))
    assert len(plan.steps) == 1
    step = plan.steps[0]
    assert step.taken_back == step.taken_back_before == LOST
    assert step.locked == 0.2  # in the second attempt
    assert plan.kept == {}
    assert same_weights(tmp_path / "best", teacher)
    assert prune_network(recipe, teacher, tmp_path, Validation()) == plan


@pytest.mark.usefixtures("unchecked")
def test_a_step_that_was_taken_back_is_done_once_more(
    dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    class Recovering(Validation):
        """Bad until the fifth network: the first attempt's cut, twice, and its recovery twice."""

        def __call__(self, *arguments: Any) -> dict[str, Any]:
            self.loss = 0.025 if len(self.parameters) < 5 else 0.0
            return super().__call__(*arguments)

    guard = {"detection": 100, "drivable": 2.0, "lane": 2.0}
    recipe = recipe_of(dataset, guard=guard, locked=0.1, criterion="random")
    plan = prune_network(recipe, teacher, tmp_path, Recovering())
    first, last = plan.steps
    assert (first.taken_back, last.taken_back) == ("", "")
    assert first.taken_back_before == LOST
    assert (first.locked, last.locked) == (0.2, 0.1)
    assert last.remains["parameters"] <= 0.6
    whole = count_parameters(load_checkpoint(teacher))
    assert last.parameters == count_parameters(load_checkpoint(tmp_path / "best")) < 0.6 * whole
    assert not (tmp_path / "step_1" / "again" / "scores.safetensors").exists()
    assert prune_network(recipe, teacher, tmp_path, Validation(fails_at=0)) == plan


@pytest.mark.usefixtures("unchecked")
def test_a_cut_that_was_taken_back_is_not_recovered_once_more(
    dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    guard = {"detection": 100, "drivable": 2.0, "lane": 2.0}
    recipe = recipe_of(dataset, guard=guard, locked=1e-6)  # of so few channels: none
    plan = prune_network(recipe, teacher, tmp_path, Validation(loss=0.025))
    [step] = plan.steps
    assert step.taken_back_before == LOST
    assert step.taken_back == "with twice the locked channels the cut is the same"
    assert not (tmp_path / "step_1" / "again" / "recovery").exists()
    assert plan.kept == {}
    assert prune_network(recipe, teacher, tmp_path, Validation(fails_at=0)) == plan


def test_guard_compares_with_the_teacher() -> None:
    guard = Guard(detection=5, drivable=2, lane=5)
    figures = {"map50": 0.9, "map50_95": 0.5, "best_f1": 0.8}
    teacher = judged({"detection": figures, "drivable": {"miou": 0.9}, "lane": {}})
    assert set(teacher) == {f"detection.{name}" for name in figures} | {"drivable.miou"}

    def broken(**changes: float) -> str:
        return broken_guard(
            guard, teacher, teacher | {name.replace("__", "."): v for name, v in changes.items()}
        )

    assert broken(detection__map50=0.851, drivable__miou=0.881) == ""
    # Boxes that are found, but lie badly.
    assert broken(detection__map50_95=0.44) == (
        "detection mAP50-95 lost 6.00 points, compress.prune.guard.detection allows 5"
    )
    assert broken(detection__best_f1=0.7, drivable__miou=0.8, detection__map50=1.0) == (
        "detection best F1 lost 10.00 points, compress.prune.guard.detection allows 5; "
        "drivable mIoU lost 10.00 points, compress.prune.guard.drivable allows 2"
    )
    assert broken(drivable__miou=float("nan")) == "drivable mIoU is not a number"


def test_a_guard_without_recovery_is_refused(dataset: Path) -> None:
    with pytest.raises(ValidationError, match="epochs_between must not be 0"):
        recipe_of(dataset, epochs_between=0)
    assert recipe_of(dataset, epochs_between=0, guard={})


def test_statistics_are_those_of_the_calibration_images(dataset: Path, teacher: Path) -> None:
    recipe = recipe_of(dataset)
    assert recipe.compress
    batches = calibration_batches(recipe, recipe.compress.scoring)
    model = load_checkpoint(teacher)
    norm = model.backbone.stem[1]
    torch.nn.init.constant_(norm.running_mean, 7.0)
    recalibrate(model, batches, description_of(model), lambda _d, _t: None)
    with torch.no_grad():
        outputs = [model.backbone.stem[0](normalise(batch.images)).double() for batch in batches]
    mean = torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0)
    variance = torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0)
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1
    assert not any(module.training for module in model.modules())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recalibrate(model, batches, description_of(model), lambda _d, _t: None)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_broken_network_is_refused(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_checkpoint(teacher)
    groups = registry_groups(model)
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


def test_a_detection_that_is_suppressed_the_other_way_round_is_no_other_network() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 300, (1, 40, 2))
    boxes = np.concatenate((corners, corners + 20), 2).astype(np.float32)
    scores = np.linspace(0.9, 0.1, 40, dtype=np.float32)[None]
    labels, masks = np.zeros((1, 40), np.int64), np.zeros((1, 8, 8), np.uint8)
    wanted = Outputs(boxes, scores, labels, masks, masks)

    def without(*gone: int) -> Outputs:
        rest = np.delete(np.arange(40), gone)
        padding = len(gone)
        return Outputs(
            np.pad(boxes[:, rest], ((0, 0), (0, padding), (0, 0))),
            np.pad(scores[:, rest], ((0, 0), (0, padding))),
            labels,
            masks,
            masks,
        )

    assert checks._unpaired(wanted, wanted) == 0
    assert checks._unpaired(wanted, without(3)) == pytest.approx(1 / 40)
    assert checks._unpaired(wanted, without(*range(10))) > checks.MOST_UNPAIRED
    assert checks._unpaired(wanted, Outputs(boxes + 5, scores * 0.9, labels, masks, masks)) == 1

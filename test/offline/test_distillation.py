"""Feature distillation: its mathematics, whose channels are whose, and what a run makes of it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from mtc_perception.util.errors import UserError
from offline_compress.channels.surgery import keep_channels, pruned_spec, shorten_decoder
from offline_compress.data.targets import IGNORE, Targets
from offline_compress.losses.task_losses import QUERY_WEIGHT
from offline_compress.losses.teacher_losses import NORM_EPS, distances, foreground, mask_divergence
from offline_compress.models.network import NetworkOutput
from offline_compress.models.registry import (
    ModelSpec,
    load_checkpoint,
    load_spec,
    model_spec,
    save_checkpoint,
)
from offline_compress.recipe.compression import Lessons
from offline_compress.recipe.recipe import Recipe
from offline_compress.training.distillation import (
    TAP_WEIGHTS,
    Teacher,
    Trunk,
    WholeNetwork,
    decayed,
    kept_channels,
    load_teacher,
    tap_widths,
)
from offline_compress.training.recovery import recover_recipe
from offline_compress.training.state import REQUIRED, STATE_FILE
from offline_compress.training.stopping import Interrupted
from offline_compress.training.trainer import Trainer
from support.pruning_tools import registry_groups
from support.random_norms import randomise_norms
from support.tiny_networks import TINY, TINY_QUERIES
from support.tiny_training import digest, tiny_recipe
from support.training_rig import Scores, interrupt_at, rows, weights

IMAGE = (2, 3, 64, 96)
WIDE = TINY | {"widths": [8, 16, 16, 24], "pyramid": 16}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def spec_of(architecture: str, arguments: dict[str, Any]) -> ModelSpec:
    return ModelSpec("tiny", architecture, arguments, ["vehicle"], 128, 192, ["roads of old"])


DENSE, WIDER, QUERIES = (
    spec_of("conv_multitask", TINY),
    spec_of("conv_multitask", WIDE),
    spec_of("rmt_ppad", TINY_QUERIES | {"segmentation": "stride4"}),
)


def network(spec: ModelSpec) -> nn.Module:
    model = spec.build().eval()
    randomise_norms(model)
    return model


def saved(folder: Path, spec: ModelSpec) -> Path:
    save_checkpoint(folder, spec, network(spec))
    return folder


def pruned(folder: Path, parent: Path, seed: int = 0) -> Path:
    """A checkpoint of the network at `parent` without half of the channels of every group."""
    spec, model = load_spec(parent), load_checkpoint(parent)
    groups = registry_groups(model)
    random = np.random.default_rng(seed)
    kept = {
        group.name: sorted(random.permutation(group.size)[: group.size // 2].tolist())
        for group in groups
        if not group.protected
    }
    keep_channels(model, groups, kept)
    save_checkpoint(folder, pruned_spec(spec, model, groups, kept), model)
    return folder


def targets(labelled: bool = True) -> Targets:
    """A vehicle in each of the two images, or no labels at all."""
    boxes = torch.tensor([[[10.0, 20, 50, 60]], [[60.0, 2, 70, 12]]])
    masks = torch.full((2, *IMAGE[2:]), 0 if labelled else IGNORE, dtype=torch.uint8)
    return Targets(
        boxes, torch.zeros(2, 1, dtype=torch.int64), torch.tensor([labelled] * 2), masks, masks
    )


def features_loss(teaching: Teacher, image: torch.Tensor, output: NetworkOutput) -> torch.Tensor:
    return teaching(image, output, targets())["features"]


def reference(student: torch.Tensor, teacher: torch.Tensor) -> float:
    """The distance in float64, by its definition."""

    def standard(features: torch.Tensor) -> NDArray[np.float64]:
        values = features.detach().numpy().astype(np.float64)
        mean = values.mean((0, 2, 3), keepdims=True)
        return (values - mean) / np.sqrt(values.var((0, 2, 3), keepdims=True) + NORM_EPS)

    return float(np.mean((standard(student) - standard(teacher)) ** 2) / 2)


def test_the_distance_is_that_of_its_definition() -> None:
    student, teacher = 3 * torch.randn(2, 5, 4, 6) + 1, torch.randn(2, 5, 4, 6) * 0.1
    assert distances(student, teacher).mean().item() == pytest.approx(
        reference(student, teacher), rel=1e-5
    )
    by_hand = torch.tensor([[[[0.0, 20.0]]]]), torch.tensor([[[[50.0, 10.0]]]])
    # Standardised these are (-1, 1) and (1, -1): half of (4 + 4) / 2.
    assert distances(*by_hand).mean().item() == pytest.approx(2, rel=1e-4)


def test_the_distance_is_what_correlation_lacks() -> None:
    student, teacher = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    correlations = [
        np.corrcoef(student[:, c].flatten().numpy(), teacher[:, c].flatten().numpy())[0, 1]
        for c in range(4)
    ]
    assert distances(student, teacher).mean().item() == pytest.approx(
        1 - np.mean(correlations), rel=0.01
    )
    assert distances(teacher * 7 - 2, teacher).mean().item() == pytest.approx(0, abs=1e-5)
    assert distances(-teacher, teacher).mean().item() == pytest.approx(2, rel=0.01)


def test_a_channel_without_life_does_no_harm() -> None:
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    student[:, 0], teacher[:, 1] = 0.5, 0
    student.requires_grad_()
    value = distances(student, teacher).mean()
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1


def test_the_weight_falls_to_nothing_at_the_end() -> None:
    factors = [decayed(step, 100, 0.2) for step in range(101)]
    assert factors[:81] == [1] * 81
    assert factors[90] == pytest.approx(0.5)
    assert factors[95] == pytest.approx((1 - np.cos(np.pi / 4)) / 2)
    assert factors[100] == 0
    assert sorted(factors, reverse=True) == factors
    assert [decayed(step, 10, 0.0) for step in range(10)] == [1] * 10


@pytest.mark.parametrize(
    "spec",
    [
        *(DENSE, QUERIES),
        replace(model_spec("mtc_s_lite0", ["vehicle"], 64, 96)),
        replace(QUERIES, arguments=QUERIES.arguments | {"segmentation": "full"}),
    ],
    ids=["conv", "rmt_ppad", "lite", "rmt_ppad-full"],
)
def test_the_trunk_computes_the_features_of_the_network(spec: ModelSpec) -> None:
    model = network(spec)
    before = digest(model.state_dict())
    image = torch.randn(IMAGE)
    trunk, whole = Trunk(model), WholeNetwork(model)
    with torch.no_grad():
        output, found, again = model(image), trunk(image), whole(image)
    wanted = output.features
    for name in ("drivable", "lane"):
        one, other = getattr(again, name), getattr(output, name)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    assert list(found) == list(wanted) == list(TAP_WEIGHTS)
    for tap, feature in wanted.items():
        scale = float(feature.abs().max())
        torch.testing.assert_close(found[tap], feature, rtol=1e-4, atol=1e-5 * scale, msg=tap)
    assert not [m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    assert digest(model.state_dict()) == before
    assert {name.split(".")[0] for name, _ in trunk.named_parameters()} == {"backbone", "encoder"}


def test_a_student_that_is_its_teacher_is_at_no_distance(tmp_path: Path) -> None:
    model = network(DENSE)
    save_checkpoint(tmp_path, DENSE, model)
    teaching = load_teacher(tmp_path, Lessons(), DENSE).train()
    image = torch.randn(IMAGE)
    assert not list(teaching.projections)
    assert features_loss(teaching, image, model(image)).item() == pytest.approx(0, abs=1e-6)


def test_a_pruned_student_is_compared_with_the_channels_it_kept(tmp_path: Path) -> None:
    parent = saved(tmp_path / "teacher", DENSE)
    child = pruned(tmp_path / "child", parent)
    spec, student = load_spec(child), load_checkpoint(child)
    assert set(spec.taps) == set(TAP_WEIGHTS)
    teaching = load_teacher(parent, Lessons(), spec)
    image = torch.randn(IMAGE)
    output = student(image)
    features = output.features
    taught = load_checkpoint(parent)(image).features
    wanted = {tap: reference(features[tap], taught[tap][:, spec.taps[tap]]) for tap in TAP_WEIGHTS}
    total = sum(wanted[tap] for tap in ("c3", "c4", "c5"))
    total += 2 * sum(wanted[tap] for tap in ("p3", "p4", "p5"))
    assert features_loss(teaching, image, output).item() == pytest.approx(total, rel=1e-4)
    assert not list(teaching.projections)


def test_gradients_go_to_the_student_alone(tmp_path: Path) -> None:
    teaching = load_teacher(saved(tmp_path, QUERIES), Lessons(), DENSE)
    before = digest(teaching.teacher.state_dict())
    student, image = network(DENSE).train(), torch.randn(IMAGE)
    features_loss(teaching.train(), image, student(image)).backward()
    assert not any(module.training for module in teaching.teacher.modules())
    assert all(p.grad is None for p in teaching.teacher.parameters())
    assert digest(teaching.teacher.state_dict()) == before
    learning = {name for name, p in teaching.named_parameters() if p.requires_grad}
    assert learning == {f"distances.projections.{tap}.weight" for tap in TAP_WEIGHTS}
    for name, parameter in [*student.named_parameters(), *teaching.projections.named_parameters()]:
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == (not name.startswith(("detection", "mask", "drivable", "lane"))), name


def test_unrelated_widths_are_projected(tmp_path: Path) -> None:
    path = saved(tmp_path, WIDER)
    teaching = load_teacher(path, Lessons(), DENSE)
    student, teacher, image = network(DENSE), load_checkpoint(path), torch.randn(IMAGE)
    output, taught = student(image), teacher(image).features
    features = output.features
    total = 0.0
    for tap, weight in TAP_WEIGHTS.items():
        matrix = teaching.projections[tap].weight.squeeze()
        assert matrix.shape == (taught[tap].shape[1], features[tap].shape[1])
        projected = torch.einsum("oc,nchw->nohw", matrix, features[tap])
        total += weight * reference(projected, taught[tap])
    assert features_loss(teaching, image, output).item() == pytest.approx(total, rel=1e-4)


def test_vehicles_count_once_more_on_the_encoders_levels(tmp_path: Path) -> None:
    path = saved(tmp_path, WIDER)
    plain, twice = (load_teacher(path, Lessons(foreground=f), DENSE) for f in (0.0, 0.5))
    twice.load_state_dict(plain.state_dict())
    output, image = network(DENSE)(torch.randn(IMAGE)), torch.randn(IMAGE)
    found = twice(image, output, targets())
    assert plain.weights == {"features": 1.0}
    assert twice.weights == {"features": 1.0, "foreground": 0.5}
    assert torch.equal(found["features"], features_loss(plain, image, output))
    total = 0.0
    for tap in ("p3", "p4", "p5"):
        student = twice.projections[tap](output.features[tap]).detach().numpy().astype(np.float64)
        teacher = load_checkpoint(path)(image).features[tap].detach().numpy().astype(np.float64)
        for values in (student, teacher):
            values -= values.mean((0, 2, 3), keepdims=True)
            values /= np.sqrt(values.var((0, 2, 3), keepdims=True) + NORM_EPS)
        apart = ((student - teacher) ** 2).mean(1) / 2
        total += 2 * float((apart * foreground(targets(), *apart.shape[1:]).numpy()).sum())
    assert found["foreground"].item() == pytest.approx(total, rel=1e-4)
    assert twice(image, output, targets(labelled=False))["foreground"].item() == 0


def test_masks_are_taught_with_and_without_labels_and_by_any_teacher(tmp_path: Path) -> None:
    path = saved(tmp_path, QUERIES)
    teaching = load_teacher(path, Lessons(weight=0, masks=0.5), DENSE).train()
    assert teaching.weights == {"features": 0, "masks": 1.0}
    student, teacher, image = network(DENSE), load_checkpoint(path), torch.randn(IMAGE)
    output = student(image)
    with torch.no_grad():
        taught = teacher(image)
    wanted = mask_divergence(output.drivable, taught.drivable)
    wanted = wanted + mask_divergence(output.lane, taught.lane)
    for labelled in (True, False):
        found = teaching(image, output, targets(labelled))["masks"]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    found.backward()
    assert student.lane_head.predict.weight.grad.any()
    assert student.detection_head.classify[0].weight.grad is None


def test_vehicles_are_taught_where_none_are_labelled(tmp_path: Path) -> None:
    path = saved(tmp_path / "dense", WIDER)
    teaching = load_teacher(path, Lessons(vehicles=1), DENSE)
    student, image = network(DENSE), torch.randn(IMAGE)
    output = student(image)
    assert teaching(image, output, targets())["vehicles"].item() == 0
    loss = teaching(image, output, targets(labelled=False))["vehicles"]
    assert loss.item() > 0
    loss.backward()
    assert student.detection_head.classify[0].weight.grad.any()
    queries = saved(tmp_path / "queries", QUERIES)
    with pytest.raises(UserError, match="queries has a query decoder"):
        load_teacher(queries, Lessons(vehicles=1), DENSE)
    with pytest.raises(UserError, match="tiny has a query decoder"):
        load_teacher(path, Lessons(vehicles=1), QUERIES)


@pytest.mark.slow
def opinionated(model: nn.Module) -> nn.Module:
    """A new query decoder answers with its anchors, sure of nothing."""
    decoder = model.detection_head
    for score, box in zip(decoder.score_heads, decoder.box_heads, strict=True):
        nn.init.normal_(score.weight)
        nn.init.normal_(box[-1].weight, std=0.1)
    return model


def test_both_answer_the_same_denoising_queries(tmp_path: Path) -> None:
    path = tmp_path / "queries"
    save_checkpoint(path, QUERIES, opinionated(network(QUERIES)))
    teaching = load_teacher(path, Lessons(weight=0, queries=1), QUERIES).train()
    assert teaching.weights == {"features": 0, "queries": QUERY_WEIGHT}
    image, labels = torch.randn(IMAGE), targets()
    own = load_checkpoint(path)
    own.detection_head.training = True  # Only there: BatchNorms as in use.
    near = teaching(image, own(image, labels), labels)["queries"].item()
    other = opinionated(load_checkpoint(path)).train()
    far = teaching(image, other(image, labels), labels)["queries"].item()
    assert near < 1e-3 * far, "folded norms round elsewhere, no more"
    shorter, _ = shorten_decoder(opinionated(network(QUERIES)).train(), QUERIES, 1, None)
    teaching(image, shorter(image, labels), labels)["queries"].backward()
    assert shorter.detection_head.score_heads[0].weight.grad.any()
    assert shorter.backbone.stem.stem1.conv.weight.grad.any()
    unlabelled = targets(labelled=False)
    assert teaching(image, shorter(image, unlabelled), unlabelled)["queries"].item() == 0
    dense = saved(tmp_path / "dense", DENSE)
    with pytest.raises(UserError, match="dense has a dense head"):
        load_teacher(dense, Lessons(queries=1), QUERIES)
    with pytest.raises(UserError, match="tiny has a dense head"):
        load_teacher(path, Lessons(queries=1), DENSE)
    with pytest.raises(UserError, match="knows the classes vehicle, tiny car, bus"):
        load_teacher(path, Lessons(queries=1), replace(QUERIES, classes=["car", "bus"]))


def test_whose_channels_are_whose(tmp_path: Path) -> None:
    teacher = saved(tmp_path / "teacher", QUERIES)
    child = pruned(tmp_path / "child", teacher, seed=1)
    grandchild = pruned(tmp_path / "grandchild", child, seed=2)
    whole, half, quarter = (load_spec(path) for path in (teacher, child, grandchild))
    widths = tap_widths(load_checkpoint(teacher))
    same = {tap: list(range(width)) for tap, width in widths.items()}
    assert kept_channels(whole, whole) == same
    fewer_layers = replace(half, arguments=half.arguments | {"layers": 1})
    assert kept_channels(fewer_layers, whole) == same | half.taps
    assert kept_channels(quarter, whole) == same | quarter.taps
    # Of a teacher that is pruned itself: where its remaining channels have gone.
    for tap, places in kept_channels(quarter, half).items():
        of_half = half.taps.get(tap, list(range(widths[tap])))
        assert places is not None
        assert [of_half[place] for place in places] == quarter.taps.get(tap, of_half)
    narrower = kept_channels(whole, half)
    assert narrower == {tap: None if tap in half.taps else same[tap] for tap in same}
    unrelated = dict.fromkeys(TAP_WEIGHTS)
    assert kept_channels(DENSE, whole) == kept_channels(DENSE, WIDER) == unrelated


@pytest.mark.slow
def test_a_query_decoder_teaches_a_dense_head(dataset: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        dataset,
        {"epochs": 1, "samples_per_epoch": 4},
        distillation={"teacher": saved(tmp_path / "teacher", QUERIES)},
    )
    Trainer(recipe, tmp_path / "run", Scores(0.5)).run()
    assert list(rows(tmp_path / "run")[-1]["loss"]) == ["detection", "drivable", "lane", "features"]
    checkpoint = tmp_path / "run" / "best"
    assert load_checkpoint(checkpoint)(torch.zeros(IMAGE)).drivable.shape == (2, 64, 96)
    spec = load_spec(checkpoint)
    assert ", taught by the weights with sha256 " in spec.lineage[-1]
    assert spec.data == ["roads of old", "roads train"]


@pytest.mark.slow
def test_the_teacher_computes_in_the_precision_of_the_run(dataset: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        dataset,
        {"epochs": 1, "samples_per_epoch": 4},
        precision="bf16",
        distillation={"teacher": saved(tmp_path / "teacher", WIDER)},
    )
    trainer = Trainer(recipe, tmp_path / "run", Scores(0.5))
    teaching = trainer.learner._teaching
    assert teaching
    found = set()
    for module in teaching._module.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, output: found.add(output.dtype))
    trainer.run()
    assert found == {torch.bfloat16}
    assert {value.dtype for value in teaching.state()["projections"].values()} == {torch.float32}


@pytest.mark.slow
def test_features_come_closer(dataset: Path, tmp_path: Path) -> None:
    teacher = saved(tmp_path / "teacher", WIDER)
    distance_of = []
    for weight in (1e-9, 3.0):
        recipe = tiny_recipe(
            dataset,
            {"epochs": 3, "samples_per_epoch": 32, "learning_rate": 0.01},
            distillation={"teacher": teacher, "weight": weight},
        )
        Trainer(recipe, tmp_path / f"{weight}", Scores(0.5)).run()
        distance_of.append([row["loss"]["features"] for row in rows(tmp_path / f"{weight}")])
    assert distance_of[1][-1] < 0.9 * distance_of[1][0]
    assert distance_of[1][-1] < 0.9 * distance_of[0][-1]


@pytest.mark.slow
def test_a_distilled_run_resumes_exactly(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = saved(tmp_path / "teacher", WIDER)
    recipe = tiny_recipe(
        dataset,
        {"epochs": 3, "accumulate": 2},
        distillation={"teacher": teacher, "decay": 0.5, "foreground": 1, "masks": 1, "vehicles": 1},
    )
    whole = Trainer(recipe, tmp_path / "whole", Scores(0.5))
    whole.run()
    with monkeypatch.context() as patch:
        interrupt_at(2, patch, 15)
        with pytest.raises(Interrupted):
            Trainer(recipe, tmp_path / "parts", Scores(0.5)).run()
    rest = Trainer(recipe, tmp_path / "parts", Scores(0.5))
    rest.run()
    assert weights(rest) == weights(whole)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    states = [
        torch.load(tmp_path / run / STATE_FILE, weights_only=True) for run in ("whole", "parts")
    ]
    first, second = (digest(state["teaching"]["projections"]) for state in states)
    assert first == second
    assert set(states[0]) == REQUIRED | {"scored", "teaching"}
    assert not [
        name for name in load_checkpoint(tmp_path / "parts" / "last").state_dict() if "proj" in name
    ]

    saved(teacher, WIDER)
    with pytest.raises(UserError, match="began with another teacher than"):
        Trainer(recipe, tmp_path / "parts", Scores(0.5))
    shutil.rmtree(teacher)
    with pytest.raises(UserError, match=r"teacher does not exist; give the folder"):
        Trainer(recipe, tmp_path / "parts", Scores(0.5))


@pytest.mark.slow
def test_a_run_without_a_teacher_is_as_before(dataset: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(dataset, {"epochs": 1})
    trainer = Trainer(recipe, tmp_path, Scores(0.5))
    trainer.run()
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert set(state) == REQUIRED | {"scored"}
    assert len(state["loss_sums"]) == 3
    optimised = sum(len(group["params"]) for group in state["optimizer"]["param_groups"])
    assert optimised == len(list(trainer.learner.model.parameters()))
    assert list(rows(tmp_path)[0]["loss"]) == ["detection", "drivable", "lane"]


@pytest.mark.slow
def test_what_comes_after_training_may_change_in_its_course(dataset: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(dataset, {"epochs": 1})
    Trainer(recipe, tmp_path, Scores(0.5)).run()
    schedule = recipe.schedule.model_dump()
    for macs in (0.5, 0.4):
        compress = {"prune": {"budget": {"macs": macs}}, "recover": {"schedule": schedule}}
        later = tiny_recipe(dataset, {"epochs": 1}, compress=compress)
        assert Trainer(later, tmp_path, Scores(0.5)).over


@pytest.mark.slow
def test_a_network_with_fewer_decoder_layers_recovers(dataset: Path, tmp_path: Path) -> None:
    teacher = saved(tmp_path / "teacher", QUERIES)
    model, spec = shorten_decoder(load_checkpoint(teacher), load_spec(teacher), 1, None)
    save_checkpoint(tmp_path / "small", spec, model)
    recipe = tiny_recipe(dataset, model="rmt_ppad_n", arguments=QUERIES.arguments)
    recover = {"schedule": recipe.schedule.model_dump() | {"epochs": 1, "samples_per_epoch": 4}}
    compress = {"prune": {"budget": {"macs": 0.5}, "decoder_layers": 1}, "recover": recover}
    recipe = Recipe.model_validate(recipe.model_dump() | {"compress": compress})
    trainer = Trainer(
        recover_recipe(recipe, tmp_path / "small", teacher), tmp_path / "run", Scores(0.5)
    )
    assert digest(trainer.learner.model.state_dict()) == digest(model.state_dict())
    trainer.run()
    found = load_spec(tmp_path / "run" / "last")
    assert found.arguments["layers"] == 1
    assert list(rows(tmp_path / "run")[-1]["loss"]) == ["detection", "drivable", "lane", "features"]


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["start_from", "shape_of"])
def test_a_pruned_network_is_trained_in_its_shape(
    dataset: Path, tmp_path: Path, origin: str
) -> None:
    teacher = saved(tmp_path / "teacher", DENSE)
    small = pruned(tmp_path / "small", teacher)
    recipe = tiny_recipe(
        dataset, {"epochs": 1}, distillation={"teacher": teacher}, **{origin: small}
    )
    trainer = Trainer(recipe, tmp_path / "run", Scores(0.5))
    began = trainer.learner.model.state_dict()
    known = load_checkpoint(small).state_dict()
    assert {k: v.shape for k, v in began.items()} == {k: v.shape for k, v in known.items()}
    assert (digest(began) == digest(known)) == (origin == "start_from")
    trainer.run()
    found = load_spec(tmp_path / "run" / "best")
    assert (found.shapes, found.taps) == (load_spec(small).shapes, load_spec(small).taps)
    word = {"start_from": "pruned weights with sha256", "shape_of": "from scratch in the shape of"}
    assert word[origin] in found.lineage[-1]
    load_checkpoint(tmp_path / "run" / "best")
    # The run goes on without the checkpoint that it began with.
    shutil.rmtree(small)
    assert Trainer(recipe, tmp_path / "run", Scores(0.5)).spec == trainer.spec
    other = tiny_recipe(
        dataset, arguments={"lane": 16}, **{origin: pruned(tmp_path / "small", teacher)}
    )
    with pytest.raises(UserError, match=r"are not those of .*small: that has lane: 8, not 16"):
        Trainer(other, tmp_path / "other", Scores(0.5))

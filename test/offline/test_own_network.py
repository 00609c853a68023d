"""A network of no registry, compressed with its owner's training and figures."""

import copy
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mtc_perception.core.bundle import read_bundle
from mtc_perception.core.engine import Network
from mtc_perception.core.images import SourceImage
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from mtc_perception.util.errors import UserError
from mtc_perception.util.provenance import provenance
from offline_compress.api import (
    AnchorFree,
    Boxes,
    Budget,
    Compressed,
    Description,
    FeatureTeacher,
    Final,
    Mask,
    NetworkMap,
    PruningRules,
    Step,
    channel_groups,
    channel_scores,
    choose,
    compress,
    control,
    keep_channels,
    load_pruned,
    recalibrate,
    save_pruned,
    wrap_module,
)
from offline_compress.evaluation import latency
from offline_compress.evaluation.latency import conditions
from offline_compress.pruning import channel_choice, latency_table, problem
from offline_compress.pruning.cost import layer_cost, layer_costs
from offline_compress.pruning.latency_table import (
    LatencySample,
    LatencyTable,
    measure_table,
    sample_counts,
)
from offline_compress.pruning.own_network import deployed_for_timing
from offline_compress.roads.road_dataset import write_dataset
from support.checkout import ROOT
from support.two_tasks import TwoTasks, description, evaluate, samples, shape_loss, train

RULES = PruningRules(
    budget=Budget(parameters=0.5), steps=2, round_to=1, least_channels=2, largest_rise=None
)
MAP = NetworkMap(drivable=Mask(output="shape", channels=(0,), values="sigmoid"))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    network = TwoTasks()
    train(network, None, 120)
    return network.eval()


def recover(network: nn.Module, teacher: FeatureTeacher, step: Step) -> None:
    train(network, teacher, 40)


def run(network: nn.Module, out: Path, **changes: Any) -> Compressed:
    settings: dict[str, Any] = {
        "description": description(),
        "batches": samples(6, 3),
        "rules": RULES,
        "recover": recover,
        "evaluate": evaluate,
        "out": out,
    }
    return compress(network, **settings | changes)


@pytest.fixture(scope="module")
def compressed(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    return run(trained, tmp_path_factory.mktemp("own") / "run")


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_a_network_of_no_registry_is_compressed(trained: nn.Module, compressed: Compressed) -> None:
    assert compressed.plan.steps[-1].remains["parameters"] <= 0.5
    assert parameters(compressed.model) < 0.55 * parameters(trained)
    before, after = evaluate(trained), evaluate(compressed.model)
    assert before["pixels"] > 95
    assert after["pixels"] > before["pixels"] - 2
    assert after["colours"] > before["colours"] - 0.05
    assert compressed.plan.steps[-1].after == pytest.approx(after)
    assert parameters(trained) == parameters(TwoTasks())


def test_the_same_call_goes_on(trained: nn.Module, compressed: Compressed) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    out = compressed.file.parent.parent
    again = run(trained, out, recover=never, evaluate=never)
    assert again.plan == compressed.plan
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, compressed.model.state_dict()[name])
    with pytest.raises(UserError, match="holds something made with other rules; give another"):
        run(trained, out, rules=RULES.model_copy(update={"steps": 3}))
    with pytest.raises(UserError, match="another teacher; choose another folder"):
        run(TwoTasks(), out)


def test_a_file_reloads_without_the_pruner(compressed: Compressed) -> None:
    code = (
        "import sys; sys.modules['offline_compress.pruning'] = None;"
        "sys.modules['offline_compress.channels'] = None; from pathlib import Path;"
        "from torch import nn; from offline_compress.models.pruned_file import load_pruned;"
        "trunk = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.PReLU(16),"
        " nn.Conv2d(16, 24, 3, bias=False), nn.BatchNorm2d(24));"
        "shape = nn.Sequential(nn.Conv2d(24, 12, 3), nn.ReLU(), nn.Conv2d(12, 1, 1));"
        "colour = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3));"
        "whole = nn.ModuleDict({'trunk': trunk, 'shape': shape, 'colour': colour});"
        f"load_pruned(Path({str(compressed.file)!r}), whole);"
        "print(sum(p.numel() for p in whole.parameters()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == parameters(compressed.model)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    save_pruned(tmp_path / "a", nn.Conv2d(3, 8, 1))
    whole = nn.Conv2d(3, 4, 1)
    for network, reason in (
        (whole, r"bias is \[4\] unpruned, not \[8\]"),
        (nn.Sequential(whole), "another network: 0.weight is missing, and 3 more"),
        (nn.Linear(2, 8), "unpruned, not"),
    ):
        with pytest.raises(UserError, match=reason):
            load_pruned(tmp_path / "a", network)
    (tmp_path / "b").write_bytes(b"\x10" * 50)
    for name in ("b", "c"):
        with pytest.raises(UserError, match=f"{name} does not load"):
            load_pruned(tmp_path / name, whole)


def test_step_by_step(trained: nn.Module) -> None:
    network, own, batches = copy.deepcopy(trained), description(), samples(6, 3)
    groups = channel_groups(network, own)
    assert [(g.name, g.size, bool(g.protected)) for g in groups] == [
        ("trunk.0", 16, False),
        ("trunk.3", 24, False),
        ("shape.0", 12, False),
        ("shape.2", 1, True),
        ("colour.0", 16, False),
        ("colour.2", 3, True),
    ]
    scores = channel_scores(network, groups, batches, own)
    assert scores.tasks == ("shape", "colour")
    assert (scores.labelled, scores.together) == ((6, 4), (4,))
    assert scores.taylor["trunk.3"].shape == (2, 24)
    assert not scores.taylor["shape.0"][1].any()  # nothing of it is read by the other task
    kept = choose(network, groups, scores, own, RULES)
    keep_channels(network, groups, kept)
    recalibrate(network, batches, own, lambda _done, _total: None)
    assert parameters(network) < 0.52 * parameters(trained)  # counted as deployed
    assert evaluate(network)["pixels"] > 60


def test_one_task_is_enough(trained: nn.Module) -> None:
    own = replace(description(), tasks={"shape": shape_loss})
    groups = channel_groups(trained, own)
    scores = channel_scores(trained, groups, samples(3, 3), own)
    assert scores.conflict["trunk.0"].shape == (0, 16)
    assert choose(trained, groups, scores, own, RULES)["trunk.3"]


def test_the_teacher_compares_the_channels_that_are_left(trained: nn.Module) -> None:
    student, own = copy.deepcopy(trained), description()
    groups = channel_groups(student, own)
    keep_channels(student, groups, {"trunk.3": [1, 5, 7]})
    images = samples(1, 4)[0][0]
    with FeatureTeacher(trained, student, own.taps, {"trunk": [1, 5, 7]}) as teacher:
        student(images)
        assert teacher.loss(images).item() == pytest.approx(0, abs=1e-6)
        with pytest.raises(UserError, match="tap trunk is no tensor of a forward pass just before"):
            teacher.loss(images)
    with FeatureTeacher(trained, student, own.taps, {"trunk": [2, 5, 7]}) as other:
        student(images)
        assert other.loss(images).item() > 0.05
    assert not student.trunk._forward_hooks
    with pytest.raises(UserError, match="taps names 'stem', which is no part"):
        FeatureTeacher(trained, student, {"a": "stem"}, {})


def test_a_guard_takes_steps_back(trained: nn.Module, tmp_path: Path) -> None:
    figures = iter([90.0] + [50.0] * 4)
    rules = RULES.model_copy(update={"locked": 0.1})
    found = run(
        trained,
        tmp_path / "run",
        rules=rules,
        recover=lambda *_: None,
        evaluate=lambda _network: {"pixels": next(figures)},
        guard={"pixels": 5},
    )
    step = found.plan.steps[-1]
    assert step.taken_back
    assert step.taken_back_before == "pixels lost 40, guard allows 5"
    assert parameters(found.model) == parameters(trained)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_what_each_layer_takes_is_measured(
    engine: Any, trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(description(), example=(torch.zeros(1, 3, 48, 64),))
    monkeypatch.setattr(latency_table, "ROUNDS", 3)
    monkeypatch.setattr(latency_table, "MIXED", 1)
    monkeypatch.setattr(latency, "LOADS", 1)
    groups = channel_groups(trained, own)
    deploy = partial(deployed_for_timing, own)
    table = measure_table(trained, groups, deploy, engine, 1, trained, lambda *_: None)
    assert (table.height, table.width) == (48, 64)
    whole = table.samples[0]
    assert whole.counts == {"trunk.0": 16, "trunk.3": 24, "shape.0": 12, "colour.0": 16}
    assert all(whole.layers_ms[layer] > 0 for layer in ("trunk.0", "trunk.3", "shape.0"))
    assert whole.layers_ms.keys() <= {"", *dict(trained.named_modules())}


def timed_by_macs(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    """A stop watch that goes with the multiply-accumulates of networks, as they are predicted."""

    def table(model: nn.Module, groups: Any, *_: Any) -> LatencyTable:
        costs = layer_costs(model, groups, (torch.zeros(shape),))
        samples = []
        for counts in sample_counts(groups, 1):
            macs = layer_cost(costs.coefficients, *costs.widths(counts))[:, 1]
            layers = dict(zip(costs.layers, (macs * 1e-3).tolist(), strict=True))
            samples.append(LatencySample(counts, sum(layers.values()), layers))
        machine = provenance()["machine"] | conditions()
        return LatencyTable("openvino", *shape[2:], samples, samples[0].total_ms, machine)

    def pair(own: Network, other: Network, *_: object) -> tuple[float, float, float]:
        return 0.5, 1.0, 0.5 if len(own.model) < len(other.model) else 1.0

    monkeypatch.setattr(problem, "measure_table", table)
    monkeypatch.setattr(channel_choice, "time_pair", pair)


def test_a_budget_of_latency_is_kept(
    trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed_by_macs(monkeypatch, (1, 3, 12, 16))
    rules = RULES.model_copy(update={"budget": Budget(latency=0.5), "cost": "latency", "steps": 1})
    found = run(trained, tmp_path / "run", rules=rules)
    assert found.plan.steps[-1].remains["latency"] == 0.5
    assert (tmp_path / "run" / "latency.json").exists()


def failing(*_: object) -> None:
    raise ValueError("no more data\nat all")


def not_finite(network: nn.Module, *_: object) -> None:
    nn.init.constant_(next(network.parameters()), torch.nan)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"description": description(tasks={"shape": lambda o, _b: o["shape"].detach().mean()})},
            "the loss of task shape depends on no weight",
        ),
        (
            {"description": description(tasks={"shape": lambda o, _b: o["shape"]})},
            r"the loss of task shape is \[8, 12, 16\], not a scalar",
        ),
        (
            {"description": description(tasks={"shape": lambda o, _b: o["form"]})},
            "the loss of task shape, raised KeyError: 'form'",
        ),
        (
            {"description": description(tasks={"shape": lambda *_: None})},
            "no labels for shape",
        ),
        ({"description": description(taps={"a": "stem"})}, "taps names 'stem', which is no part"),
        (
            {"description": description(answers=lambda _output: object())},
            "returns a object, in which no tensors",
        ),
        (
            {"description": description(tasks={"a": lambda o, _b: o["shape"].mean() * torch.nan})},
            "not finite",
        ),
        ({"recover": failing}, "recover, in step 1, raised ValueError: no more data; .*goes on"),
        ({"recover": not_finite}, "left weights that are not finite"),
        ({"evaluate": failing}, "evaluate, raised ValueError: no more data"),
        ({"evaluate": lambda _network: 0.5}, "evaluate returned 0.5, not figures by name"),
        ({"guard": {"pixel": 1}}, "guard names 'pixel'; evaluate yields pixels, colours"),
        (
            {"rules": RULES.model_copy(update={"budget": Budget(parameters=0.001)})},
            r"^budget.parameters: 0.001 cannot be reached: .*narrow as the rules allow",
        ),
        (
            {
                "rules": RULES.model_copy(update={"budget": Budget(latency=0.5)}),
                "description": description(example=(torch.zeros(2, 3, 12, 16),)),
            },
            r"latency needs an `example` of one image \[1, 3, H, W\]",
        ),
        (
            {"description": description(tasks={"shape": lambda o, _b: o["shape"].mean() * 0})},
            "the loss of task shape depends on no weight of a layer: its gradients are 0",
        ),
        ({"description": description(tasks={})}, "tasks is empty"),
        (
            {"description": description(inputs=lambda batch: batch[7])},
            "inputs, of a batch, raised IndexError",
        ),
        (
            {"description": description(inputs=lambda batch: {"image": batch[0]})},
            "inputs returned a dict, not a tuple",
        ),
        (
            {"description": description(answers=lambda output: output["form"])},
            "answers, of what the network returns, raised KeyError: 'form'",
        ),
        (
            {"description": description(taps={"a": lambda output: output["form"]})},
            "tap a, of what the network returns, raised KeyError: 'form'",
        ),
        ({"batches": [{"image": torch.zeros(1)}]}, "a batch is a dict; give `inputs`"),
        (
            {"batches": [(torch.zeros(2, 1, 12, 16), torch.zeros(2, 12, 16), None)]},
            "the network, on a batch, raised RuntimeError: Given groups=1",
        ),
        ({"batches": iter(samples(1, 3))}, "batches is a list_iterator, which cannot"),
        ({"batches": []}, "batches is empty"),
        ({"rules": {"budget": {"macs": 0.5}}}, r"rules is a dict, not PruningRules\("),
        ({"recover": None}, "recover is a NoneType, not a function"),
        ({"guard": {"pixels": "5"}}, r"guard\['pixels'\] is '5', not what"),
        ({"out": Path(__file__)}, "is no folder"),
        ({"out": "runs/mine"}, "out is a str, not a Path"),
    ],
)
def test_mistakes_are_one_line(
    changes: dict[str, Any], reason: str, trained: nn.Module, tmp_path: Path
) -> None:
    before = copy.deepcopy(trained.state_dict())
    with pytest.raises(UserError, match=reason) as caught:
        run(trained, **{"out": tmp_path / "run"} | changes)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert not list(tmp_path.glob("run/**/best")), "nothing that looks finished"


def test_a_step_that_failed_is_done_again(trained: nn.Module, tmp_path: Path) -> None:
    """And finds again what it has kept."""

    def stopped(_network: nn.Module, _teacher: FeatureTeacher, step: Step) -> None:
        (step.folder / "epoch").write_text("7")
        if step.last:
            failing()

    with pytest.raises(UserError, match="recover, in step 2"):
        run(trained, tmp_path / "run", recover=stopped)
    steps: list[tuple[int, bool, str]] = []

    def goes_on(_network: nn.Module, _teacher: FeatureTeacher, step: Step) -> None:
        steps.append((step.number, step.last, (step.folder / "epoch").read_text()))

    found = run(trained, tmp_path / "run", recover=goes_on)
    assert steps == [(2, True, "7")]
    assert found.plan.steps[-1].remains["parameters"] <= 0.5


def test_nothing_goes_on_from_weights_that_are_not_finite(
    trained: nn.Module, tmp_path: Path
) -> None:
    def diverging(network: nn.Module, _teacher: FeatureTeacher, step: Step) -> None:
        (step.folder / "epoch").write_text("7")
        not_finite(network)

    with pytest.raises(UserError, match="not finite; lower its learning rate and call again"):
        run(trained, tmp_path / "run", recover=diverging)
    assert not list(tmp_path.rglob("epoch"))
    run(trained, tmp_path / "run", recover=lambda *_: None)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: Budget(mac=0.5), "Budget: mac: Extra inputs"),
        (lambda: PruningRules(budget=Budget(macs=0.5), steps=0), "PruningRules: steps: Input"),
        (lambda: Final(boxes="a", scores="b", labels="c"), "Final: classes: Field required"),
        (
            lambda: description(example=torch.zeros(1, 3, 12, 16)),
            r"example is a Tensor.*\(image,\)",
        ),
        (lambda: description(tasks=[shape_loss]), "tasks is no mapping of names to losses"),
        (lambda: description(protect="trunk"), "protect is one string, not a list of names"),
        (
            lambda: wrap_module(TwoTasks(), torch.zeros(3, 96, 160), MAP, Path("a.mtc")),
            r"image is \[3, 96, 160\], not a tensor \[1, 3, H, W\]",
        ),
        (
            lambda: wrap_module(nn.Linear(5, 2), torch.zeros(1, 3, 96, 160), MAP, Path("a.mtc")),
            r"Linear, on an image \[1, 3, 96, 160\], raised RuntimeError",
        ),
    ],
)
def test_what_is_described_wrongly_is_one_line(made: Callable[[], object], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        made()
    assert "\n" not in str(caught.value)


def test_how_boxes_are_coded_goes_without_saying_it_twice() -> None:
    for kind in (Boxes, AnchorFree):
        coded = kind(output="rows", classes={"car": (0,)})
        assert NetworkMap(detection=coded).detection == coded
    assert Final(boxes="a", scores="b", labels="c", classes={"car": (0,)}).decoder == "final"


class Pair(NamedTuple):
    image: torch.Tensor
    mask: torch.Tensor


def test_batches_are_read_as_people_write_them(trained: nn.Module) -> None:
    """Named tuples, images alone, and `inputs` that returns a lone tensor."""
    groups, whole = channel_groups(trained, description()), samples(2, 3)
    one = description(tasks={"shape": shape_loss})
    wanted = channel_scores(trained, groups, whole, one).taylor["trunk.3"]
    alone = replace(one, inputs=lambda batch: batch[0])
    named = [Pair(image, mask) for image, mask, _ in whole]
    for own, batches in ((alone, whole), (one, named)):
        found = channel_scores(trained, groups, batches, own)
        assert found.images == 16
        np.testing.assert_array_equal(found.taylor["trunk.3"], wanted)
    images = description(tasks={"shape": lambda output, _batch: output["shape"].square().mean()})
    assert channel_scores(trained, groups, [image for image, *_ in whole], images).images == 16


def test_frozen_layers_are_scored_and_stay_frozen(trained: nn.Module) -> None:
    frozen = copy.deepcopy(trained)
    frozen.trunk.requires_grad_(False)
    groups = channel_groups(trained, description())
    wanted, found = (
        channel_scores(one, groups, samples(3, 3), description()) for one in (trained, frozen)
    )
    np.testing.assert_array_equal(found.taylor["trunk.0"], wanted.taylor["trunk.0"])
    assert not any(weight.requires_grad for weight in frozen.trunk.parameters())
    assert all(weight.requires_grad for weight in frozen.shape.parameters())


@pytest.mark.parametrize(
    ("convolution", "transposed", "size"),
    [(nn.Conv1d, nn.ConvTranspose1d, (9,)), (nn.Conv3d, nn.ConvTranspose3d, (3, 4, 5))],
)
def test_convolutions_of_other_dimensions_are_pruned(
    convolution: type[nn.Module], transposed: type[nn.Module], size: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        convolution(3, 8, 1), nn.Tanh(), transposed(8, 6, 2), convolution(6, 2, 1)
    )
    own = Description((torch.zeros(1, 3, *size),), {"a": lambda output, _b: output.square().mean()})
    groups = channel_groups(network, own)
    scores = channel_scores(network, groups, [torch.rand(2, 3, *size)], own)
    assert scores.taylor["0"].all()
    rules = RULES.model_copy(update={"criterion": "l2", "cost": "none"})
    keep_channels(network, groups, choose(network, groups, scores, own, rules))
    assert network(torch.rand(2, 3, *size)).shape[:2] == (2, 2)
    assert network[0].out_channels < 8


def test_a_task_of_protected_channels_alone_is_scored(trained: nn.Module) -> None:
    own = description(protect=["trunk", "colour"])
    found = channel_scores(trained, channel_groups(trained, own), samples(3, 3), own)
    assert not found.taylor["shape.0"][1].any()


@pytest.mark.parametrize("judged", [0, 2])
def test_a_figure_that_is_nan_is_refused_before_it_is_written(
    judged: int, trained: nn.Module, tmp_path: Path
) -> None:
    """At the start, and after a recovery: a guard does not hide it, and a mended call goes on."""
    figures = iter([90.0] * judged + [torch.nan])
    settings = {"recover": lambda *_: None, "guard": {"pixels": 5}}
    with pytest.raises(UserError, match=r"evaluate returned nan as 'pixels'; .*; the same call"):
        run(trained, tmp_path, evaluate=lambda _network: {"pixels": next(figures)}, **settings)
    found = run(trained, tmp_path, evaluate=lambda _network: {"pixels": 90.0}, **settings)
    assert not found.plan.steps[-1].taken_back


def test_recover_leaves_the_network_that_it_was_given(trained: nn.Module, tmp_path: Path) -> None:
    def growing(network: nn.Module, *_: object) -> None:
        network.extra = nn.Linear(2, 2)

    with pytest.raises(UserError, match=r"step 1, left another network: extra\.weight is unknown"):
        run(trained, tmp_path, recover=growing)
    assert not list(tmp_path.rglob("best"))
    steps: list[int] = []
    run(trained, tmp_path, recover=lambda _network, _teacher, step: steps.append(step.number))
    assert steps == [1, 2]


def test_a_changed_description_needs_another_folder(trained: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no more data"):
        run(trained, tmp_path, recover=failing)
    for name, fields in (
        ("protect", {"protect": ["trunk.0"]}),
        ("opaque", {"opaque": ["colour"]}),
        ("taps", {"taps": {}}),
    ):
        with pytest.raises(UserError, match=f"made with other {name}; give another folder"):
            run(trained, tmp_path, description=description(**fields))


def test_the_control_recovers_as_often_and_keeps_all(trained: nn.Module, tmp_path: Path) -> None:
    steps: list[Step] = []

    def recover(network: nn.Module, teacher: FeatureTeacher, step: Step) -> None:
        steps.append(step)
        if step.number == 2 and not (step.folder / "stopped").exists():
            (step.folder / "stopped").touch()
            raise KeyboardInterrupt
        train(network, teacher, 5)

    own, out = description(), tmp_path / "control"
    with pytest.raises(KeyboardInterrupt):
        control(trained, own, 2, recover, out)
    found = control(trained, own, 2, recover, out)
    assert [(step.number, step.last) for step in steps] == [(1, False), (2, True), (2, True)]
    assert parameters(found) == parameters(trained)
    other = copy.deepcopy(trained)
    for _ in range(2):
        with FeatureTeacher(trained, other, own.taps, {}) as teacher:
            train(other.train(), teacher, 5)
    for name, value in found.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    with pytest.raises(UserError, match="made with other steps; give another folder"):
        control(trained, own, 3, recover, out)
    with pytest.raises(UserError, match="made with other network"):
        control(TwoTasks(), own, 2, recover, out)


def test_the_page_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of docs/own_network.md, in order."""
    page = (ROOT / "docs" / "own_network.md").read_text()
    blocks = dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', page, re.S | re.M))
    assert list(blocks) == [
        *("network", "description", "compress", "long recovery", "control", "reload", "steps"),
        "bundle",
    ]
    monkeypatch.chdir(tmp_path)
    batches = samples(20, 1)
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "Path": Path}
    names |= {"train_batches": batches, "val_batches": batches[:4]}
    names["train_one_epoch"] = lambda network, teacher, _optimizer: train(network, teacher, 1)
    for title, block in blocks.items():
        if title == "compress":
            torch.manual_seed(0)
            names["network"] = names["TwoTasks"]().eval()
        exec(block, names)
    image = batches[0][0]
    assert torch.equal(names["small"](image)["shape"], names["result"].model(image)["shape"])
    assert parameters(names["network"]) < 0.71 * parameters(names["TwoTasks"]())
    assert (tmp_path / "small.safetensors").exists()
    assert names["fair"]["pixels"] > 60
    assert read_bundle(Path("small.mtc")).manifest.tasks == ["drivable"]


CHECKOUT = """
from torch import nn
from support.stand_ins import TwinLike

class TwinLiteNet(TwinLike):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.classifier = self.attention
"""


@pytest.fixture
def _small_numbers_again() -> Iterator[None]:
    """The example lets the processor take the least numbers as 0; other tests count on them."""
    yield
    torch.set_flush_denormal(False)


@pytest.mark.slow
@pytest.mark.usefixtures("_small_numbers_again")
def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a network of the same structure in the place of the checkout's, on rendered roads."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "TwinLite.py").write_text(CHECKOUT)
    (tmp_path / "pretrained").mkdir()
    scope: dict[str, Any] = {}
    exec(CHECKOUT, scope)
    weights = {f"module.{k}": v for k, v in scope["TwinLiteNet"]().state_dict().items()}
    torch.save(weights, tmp_path / "pretrained" / "best.pth")
    write_dataset(tmp_path / "roads", 4, 192, 128, seed=3, workers=1, val_fraction=0.5)
    write_dataset(tmp_path / "more", 3, 192, 128, seed=4, workers=1)
    timed_by_macs(monkeypatch, (1, 3, 320, 416))
    script, out = ROOT / "examples" / "twinlitenet.py", tmp_path / "out"
    places = [str(place) for place in (tmp_path, out, tmp_path / "roads", tmp_path / "more")]
    monkeypatch.setattr(sys, "argv", [str(script), *places])
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    runpy.run_path(str(script), run_name="__main__")
    assert "more lane IoU" in capsys.readouterr().out
    figures = json.loads((out / "figures.json").read_text())
    assert list(figures) == ["public", "adapted", "control", "pruned"]
    whole, small = (read_bundle(out / f"{name}.mtc").manifest for name in ("whole", "small"))
    # Without the products of attention, which no budget of this stop watch knows.
    assert small.params < 0.7 * whole.params
    assert small.gmacs < 0.9 * whole.gmacs
    with open_perceiver(Selection(out / "small.mtc", "onnxruntime")) as perceiver:
        found = perceiver.perceive(SourceImage(np.zeros((90, 160, 3), np.uint8), "rgb"))
    assert found.drivable.shape == found.lane.shape == (90, 160)

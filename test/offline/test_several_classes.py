"""Networks of several classes, from labels of a data set's own categories to a bundle that runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mtc_perception.core.bundle import Thresholds, read_bundle
from mtc_perception.core.images import SourceImage
from mtc_perception.core.overlay import CLASS_COLORS, draw_truth
from mtc_perception.core.perception import SCORE_FLOOR
from mtc_perception.datasets.layout import read_image, read_split, read_truth
from mtc_perception.metrics.figures import judged, judged_by_class
from mtc_perception.replay.report.views import metric_rows
from mtc_perception.runtime.perceiver import Selection, open_perceiver
from mtc_perception.util.errors import UserError
from offline_compress.data.dataset import load_labelled
from offline_compress.evaluation.accuracy import evaluate_subject
from offline_compress.evaluation.evaluation_report import tables
from offline_compress.evaluation.subject import open_subject
from offline_compress.export import export_bundle
from offline_compress.models.registry import MODELS, load_spec
from offline_compress.pruning.checks import broken_guard
from offline_compress.recipe.compression import Guard
from offline_compress.recipe.recipe import Recipe
from offline_compress.training.samples import training_set
from offline_compress.training.trainer import Trainer
from support.tiny_networks import TINY_QUERIES
from support.tiny_training import tiny_recipe

CLASSES = {"car": ["van"], "large": ["truck", "bus"]}
CATEGORIES = ("car", "van", "truck", "bus", "tractor")


@pytest.fixture(scope="module")
def mixed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic roads, their vehicles of five categories in turn."""
    root = tmp_path_factory.mktemp("mixed") / "roads"
    shutil.copytree(dataset, root)
    path = root / "det" / "train.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": k, "name": name} for k, name in enumerate(CATEGORIES)]
    for number, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = number % len(CATEGORIES)
    path.write_text(json.dumps(content))
    return root


def recipe_of(root: Path, schedule: dict[str, Any] | None = None, **fields: Any) -> Recipe:
    return tiny_recipe(root, schedule, **{"classes": CLASSES, "ignore": ["tractor"], **fields})


def test_targets_are_of_the_classes_that_take_them(mixed: Path) -> None:
    recipe = recipe_of(mixed)
    kinds = {"car": 0, "van": 0, "truck": 1, "bus": 1, "tractor": -2}
    for sample in read_split(mixed, "train"):
        found = load_labelled(sample, recipe.class_map)
        assert sample.ignore is not None
        wanted = [
            -2 if ignored else kinds[category]
            for category, ignored in zip(sample.categories, sample.ignore, strict=True)
        ]
        assert found.kinds.tolist() == wanted
    without = recipe_of(mixed, ignore=None, background=["tractor"])
    sample = next(one for one in read_split(mixed, "train") if "tractor" in one.categories)
    found = load_labelled(sample, without.class_map)
    assert len(found.boxes) == len(sample.categories) - sample.categories.count("tractor")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"ignore": None}, r"are of tractor, which no class takes; the classes are car \(van\), l"),
        ({"classes": ["car"], "ignore": None}, r"are of bus, tractor, truck, van, which no class"),
        (
            {"classes": CLASSES | {"rider": []}},
            r"no label is of class rider; the labels are of bus, car, tractor, truck, van, the cla",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_both_sides(
    mixed: Path, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        training_set(recipe_of(mixed, **fields))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"classes": ["car", "car"]}, "a class name occurs twice"),
        ({"classes": CLASSES | {"bus": []}}, "said twice what becomes of category bus"),
        ({"ignore": ["van"]}, "said twice what becomes of category van"),
        ({"classes": []}, "at least 1"),
    ],
)
def test_a_recipe_says_once_what_each_category_is(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        recipe_of(Path("roads"), **fields)


def test_vehicles_take_what_they_took(mixed: Path, dataset: Path) -> None:
    """Kinds of vehicles are vehicles, as in data sets that know only those."""
    recipe = tiny_recipe(mixed)
    for one, other in zip(read_split(mixed, "train"), read_split(dataset, "train"), strict=True):
        found, plain = load_labelled(one, recipe.class_map), load_labelled(other, recipe.class_map)
        kept = [category != "tractor" for category in one.categories]
        assert found.kinds.tolist() == plain.kinds[kept].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "tiny_queries"])
def test_a_network_of_two_classes_from_labels_to_a_bundle(
    model: str, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "tiny_queries", ("rmt_ppad", TINY_QUERIES))
    torch.manual_seed(0)
    recipe = recipe_of(mixed, {"epochs": 2, "samples_per_epoch": 8}, model=model)
    Trainer(recipe, tmp_path / "run").run()
    row = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert row["loss"]["detection"] > 0
    best = tmp_path / "run" / "best"
    spec = load_spec(best)
    assert (spec.classes, spec.class_map) == (["car", "large"], recipe.class_map)

    out = tmp_path / "two.mtc"
    export_bundle(best, out, Thresholds(score=SCORE_FLOOR, drivable=0.5, lane=0.5), None)
    manifest = read_bundle(out).manifest
    assert manifest.class_map == recipe.class_map
    samples = read_split(mixed, "train")
    results = [
        evaluate_subject(open_subject(one), samples).metrics.to_json() for one in (best, out)
    ]
    for result in results:
        each = result["detection"]["classes"]
        assert list(each) == ["car", "large"]
        assert all(one["objects"] > 0 for one in each.values())
        assert result["detection"]["map50"] == pytest.approx(
            (each["car"]["map50"] + each["large"]["map50"]) / 2
        )
    assert results[0]["detection"]["map50"] == pytest.approx(
        results[1]["detection"]["map50"], abs=0.01
    )
    pixels = read_image(samples[0].image_path)
    perceiver = open_perceiver(Selection(out))
    found = perceiver.perceive(SourceImage(pixels, "rgb"))
    perceiver.close()
    assert set(found.labels.tolist()) <= {0, 1}
    assert len(found.labels)


def test_labels_are_drawn_in_the_colours_of_their_classes(mixed: Path) -> None:
    sample = next(one for one in read_split(mixed, "train") if "truck" in one.categories)
    pixels = read_image(sample.image_path)
    truth = read_truth(sample, pixels.shape[:2])
    picture = draw_truth(pixels, truth, recipe_of(mixed).class_map)
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert CLASS_COLORS[1] in colours, "large"


def test_the_guard_judges_the_mean_and_names_the_class_that_lost_most() -> None:
    def metrics(car: float, bus: float) -> dict[str, Any]:
        def figures(value: float) -> dict[str, Any]:
            return dict.fromkeys(("map50", "map50_95", "best_f1"), value)

        classes = {"car": figures(car), "bus": figures(bus)}
        return {"detection": figures((car + bus) / 2) | {"classes": classes}}

    before, after = (
        judged(one) | judged_by_class(one) for one in (metrics(0.8, 0.6), metrics(0.79, 0.5))
    )
    told = broken_guard(Guard(detection=2.0), before, after)
    assert "mAP50 lost 5.50 points (most of all bus, 10.00), compress.prune.guard.det" in told
    assert not broken_guard(Guard(detection=6.0), before, after)


def test_tables_have_a_row_for_every_class() -> None:
    figures = {
        "map50": 0.5,
        "map50_95": 0.25,
        "recall_at_best_f1": 0.6,
        "precision_at_best_f1": 0.7,
    }
    detection = figures | {"classes": {"car": figures, "rider": dict.fromkeys(figures)}}
    speed = {"latency_ms": {"p50": 1.0, "p95": 2.0}, "fps": 900.0}
    result = {"detection": detection, "speed": speed, "params": 1, "gmacs": 0.1, "sweep": {}}
    [table] = [one for one in tables(result) if one.title == "classes"]
    assert table.columns[:2] == ["class", "mAP50"]
    assert [row[:2] for row in table.sections[0]] == [["car", "0.5000"], ["rider", "undefined"]]
    assert dict(metric_rows(result, live=False))["car, mAP50-95"] == "0.250"
    assert not [one for one in tables(result | {"detection": figures}) if one.title == "classes"]

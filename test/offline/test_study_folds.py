"""What a study says and what a fold learns from: never a drive that it is judged on."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtc_perception.core.class_map import VEHICLE_CLASSES
from mtc_perception.util.errors import UserError
from offline_compress.data.labelled import source_samples
from offline_compress.models.registry import model_spec, save_checkpoint
from offline_compress.recipe.parts import DataSource
from offline_compress.study.folds import (
    HELD_OUT,
    Fold,
    fold_recipe,
    folds_of,
    judged_sets,
    refuse_leaks,
)
from offline_compress.study.study import Study, load_study
from support import tiny_study
from support.checkout import ROOT
from support.labelled_roads import DataSet, road

HALF = {"name": "half", "kind": "student"}


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three drives in two splits, one further set, and what the pruning is guarded by."""
    monkeypatch.chdir(tmp_path)
    rgb, drivable, lane, box = road()
    for root, split, stems in (
        ("drives", "train", ["A_001", "A_002", "A_003", "B_001", "B_002"]),
        ("drives", "val", ["C_001", "C_002"]),
        ("other", "train", ["X_001"]),
        ("check", "train", ["Y_001"]),
    ):
        Path(root).mkdir(exist_ok=True)
        data = DataSet(Path(root), split)
        for stem in stems:
            data.add(stem, rgb, drivable, lane, [box])
    Path("recipe.yaml").write_text(yaml.safe_dump(tiny_study.recipe()))


def study(**fields: Any) -> Study:
    content = tiny_study.study()
    content["held_out"] |= {
        "drives": {"a": ["A*"], "b": ["B*"], "c": ["C*"]},
        "thin": {"A*": 2},
    } | fields.pop("held_out", {})
    return Study.model_validate(content | fields)


def test_a_fold_is_all_drives_but_one_with_the_weight_of_all() -> None:
    own = study(set={"train.0.weight": 0.6})
    for fold in folds_of(own.held_out):
        recipe = fold_recipe(own, fold)
        stems = {one.stem for source in recipe.train for one in source_samples(source)}
        sets = judged_sets(own, fold, VEHICLE_CLASSES)
        judged = {sample.stem for sample in sets[HELD_OUT]}
        assert judged == {stem for stem in judged | stems if stem.startswith(fold.drive.upper())}
        # A_002 is one of two that are thinned.
        assert stems | judged == {"A_001", "A_003", "B_001", "B_002", "C_001", "C_002"}
        assert not stems & judged
        assert sum(source.weight for source in recipe.train) == pytest.approx(0.6)
        refuse_leaks(own, fold, [recipe])
    weights = [source.weight for source in fold_recipe(own, folds_of(own.held_out)[1]).train]
    assert weights == pytest.approx([0.3, 0.3])  # two images of A, two of C


def test_what_is_reported_is_neither_learnt_nor_chosen_by() -> None:
    fold = folds_of(study().held_out)[0]
    for root in ("drives", "other"):
        own = study(set={"validate_on": [{"root": root, "split": "train"}]})
        with pytest.raises(UserError, match=r"chooses by .*, which the study reports"):
            fold_recipe(own, fold)
    Path("linked").symlink_to("other")
    own = study()
    recipe = fold_recipe(own, fold)
    leaking = [*recipe.train, DataSource(root=Path("linked"), split="train")]
    with pytest.raises(UserError, match=r"X_001.* is reported, and is in linked train"):
        refuse_leaks(own, fold, [recipe, recipe.model_copy(update={"train": leaking})])


@pytest.mark.parametrize("seen", ["drives test", "other train", "other train only a*"])
@pytest.mark.parametrize("field", ["start_from", "distillation.teacher"])
def test_what_a_network_starts_from_or_learns_after_has_not_seen_it_either(
    field: str, seen: str
) -> None:
    own = study(set={field: "start"})
    fold = folds_of(own.held_out)[0]
    spec = model_spec("tiny", ["vehicle"], 128, 192)
    for data in (["other val", "COCO"], ["other val", "COCO", seen]):
        spec = replace(spec, data=data)
        save_checkpoint(Path("start"), spec, spec.build())
        if seen not in data:
            refuse_leaks(own, fold, [fold_recipe(own, fold)])
    words = re.escape(f"start has seen {seen}, of which images are reported")
    with pytest.raises(UserError, match=words):
        refuse_leaks(own, fold, [fold_recipe(own, fold)])


@pytest.mark.parametrize(
    ("drives", "words"),
    [
        ({"a": ["A*"], "b": ["B*"]}, "the drive of C_001 is none of the study"),
        ({"a": ["A*"], "b": ["B*", "C*"], "c": ["C*"]}, "the drive of C_001 is b and c"),
        ({"a": ["A*", "B*", "C*"], "d": ["D*"]}, "no image of drive d"),
    ],
)
def test_every_image_is_of_one_drive(drives: dict[str, list[str]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        folds_of(study(held_out={"drives": drives}).held_out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reference": "nobody"}, "the reference nobody is none of teacher, control, half, taught"),
        ({"margins": {"detection.map": 1}}, "margins: no figure detection.map; known: detection"),
        ({"margins": {"lane.iou": -1}}, "margins.lane.iou: Input should be greater than 0"),
        ({"rows": [{"name": "teacher", "kind": "control"}]}, "two rows have the name teacher"),
        ({"seed": 1}, "seed: Extra inputs are not permitted"),
        (
            {"rows": [{"name": "control", "kind": "control", "pruned_by": "half"}]},
            "row control: pruned_by is for a student",
        ),
        (
            {"rows": [{**HALF, "name": "other", "pruned_by": "half"}], "reference": "other"},
            "row other: pruned_by is to name a student before it that is pruned",
        ),
        (
            {"rows": [{**HALF, "pruned_by": "half", "set": {"seed": 1}}]},
            "row half: seed has no say in a row with pruned_by",
        ),
    ],
)
def test_a_mistake_in_a_study_is_one_line(change: dict[str, Any], words: str) -> None:
    Path("study.yaml").write_text(yaml.safe_dump(tiny_study.study() | change))
    with pytest.raises(UserError, match=words):
        load_study(Path("study.yaml"))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config" / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_studies_in_the_repository_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(path)
    assert study.name == path.stem
    for source in (*study.set["train"], *study.set["validate_on"]):
        assert source.get("split") != "val", "a set that is reported, or chosen by"
    fold = Fold("drive", [DataSource(root=study.held_out.root, split="train")], [])
    for row in study.rows:
        recipe = fold_recipe(study, fold, row.set)
        if not row.pruned_by:
            # All recoveries are of one length.
            assert recipe.compression().recover == fold_recipe(study, fold).compression().recover

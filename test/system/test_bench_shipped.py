"""The bench of what is shipped: intervals, and no threshold chosen where it is reported."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.model_card import PAGE, aims, set_tables, with_figures
from bench.readme import benchmarks, readme_table
from bench.shipped import TEACHERS, Compared, halved, networks_of, shipped
from mtc_perception.datasets.layout import Sample
from mtc_perception.metrics import bootstrap
from mtc_perception.util.errors import UserError
from mtc_perception.util.progress import Progress
from offline_compress.data.labelled import labelled_split
from offline_compress.evaluation.subject import open_subject
from offline_compress.recipe.parts import DataSource
from offline_compress.study.comparison import Answers
from support.checkout import ROOT
from support.labelled_roads import DataSet, road
from support.toy_bundle import write_toy_bundle

IMAGES = 42


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    """A drive of six blocks, whose lanes are labelled ever further aside."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 50)
    data = DataSet(tmp_path / "town")
    rgb, drivable, lane, box = road()
    for index in range(IMAGES):
        data.add(f"drive_{index:04}", rgb, drivable, np.roll(lane, index // 8, axis=1), [box])
    return labelled_split(DataSource(root=data.root, split="val"), "evaluate on")


def test_figures_have_intervals_and_changes_are_paired(
    tmp_path: Path, samples: list[Sample]
) -> None:
    bundle = write_toy_bundle(tmp_path / "toy.mtc")
    masks = write_toy_bundle(tmp_path / "masks.mtc", tasks=("drivable", "lane"), name="masks")
    networks = {
        "teacher": Compared(open_subject(bundle)),
        "same": Compared(open_subject(bundle), "teacher"),
        "masks": Compared(open_subject(masks)),
    }
    with Progress() as progress:
        found = shipped(networks, {"camvid": samples}, progress)
    assert found["sets"]["camvid"] == {"images": IMAGES, "objects": IMAGES}
    teacher, same, part = (found["networks"][name] for name in networks)
    lane = teacher["sets"]["camvid"]["lane.iou"]
    assert lane["low"] < lane["value"] < lane["high"]
    assert "change" not in lane
    for one in same["sets"]["camvid"].values():
        assert one["change"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert len(teacher["score_thresholds"]["camvid"]) == 2
    assert part["score_thresholds"] == {}
    assert set(part["sets"]["camvid"]) == {"drivable.miou", "lane.iou"}
    del found["networks"]["masks"]
    [table] = set_tables(found)
    assert [row[0] for row in table.sections[0]] == ["teacher", "same", "against teacher, points"]
    assert table.sections[0][2][-1] == "+0.0 (+0.0 to +0.0)"


def test_halves_are_cut_between_blocks_of_neighbours() -> None:
    stems = [f"a_{index:03}" for index in range(10)] + [f"b_{index:03}" for index in range(15)]
    first, second = halved(Answers("all", None, stems, [], []))
    # Drive a is one block, drive b two: 7 images and 8.
    assert (len(first.stems), len(second.stems)) == (10, 15)
    assert first.stems + second.stems == stems
    assert halved(Answers("all", None, [], [], []))[0].stems == []


def test_each_half_s_threshold_is_the_best_of_the_other(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def limits(halves: list[Answers]) -> dict[str, float]:
        asked.extend(one.stems for one in halves)
        return {"first half": 0.0, "second half": 1.0}

    monkeypatch.setattr("bench.shipped.cross_fitted", limits)
    bundle = write_toy_bundle(tmp_path / "toy.mtc")
    with Progress() as progress:
        found = shipped({"toy": Compared(open_subject(bundle))}, {"town": samples}, progress)
    assert [len(one) for one in asked] == [21, 21]
    recall = found["networks"]["toy"]["sets"]["town"]["detection.recall_at_threshold"]
    assert recall["value"] == 0.5  # all of the first half, none of the second


def test_int8_is_compared_with_fp32_and_that_with_the_teacher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.shipped.open_subject", lambda *words: words)
    found = networks_of(Path("models"), {"small": "large"})
    assert {name: one.reference for name, one in found.items()} == {
        "large": None,
        "small fp32": "large",
        "small int8": "small fp32",
    }
    assert found["small int8"].subject[1:] == ("openvino", "int8")  # type: ignore[index]
    monkeypatch.undo()
    with pytest.raises(UserError):
        networks_of(Path("nowhere"), {"small": "large"})


def test_an_aim_that_was_missed_is_said_to_be() -> None:
    one = {"value": 0.9, "low": 0.88, "high": 0.96}
    figures = {"drivable.miou": one, "detection.map50": one | {"value": 0.5}}
    sets = dict.fromkeys(("camvid", "cityscapes", "idd"), figures)
    found = aims({"networks": {"mtc_nano fp32": {"sets": sets}}})
    assert {(each["set"], each["title"]): each["met"] for each in found} == {
        ("CamVid", "drivable mIoU"): False,
        ("Cityscapes", "drivable mIoU"): False,
        ("Cityscapes", "detection mAP50"): True,
        ("IDD", "drivable mIoU"): False,
    }


def test_another_bundle_is_one_more_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (ROOT / "results").glob("*.json"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "compression_other.json").symlink_to(ROOT / "results/compression_mtc_nano.json")
    monkeypatch.setitem(TEACHERS, "other", "mtc_m")
    content = json.loads((tmp_path / "shipped.json").read_text())
    known = content["networks"]
    known["other fp32"] = known["mtc_nano fp32"]
    known["other int8"] = known["mtc_nano int8"] | {"reference": "other fp32"}
    (tmp_path / "shipped.json").unlink()
    (tmp_path / "shipped.json").write_text(json.dumps(content))
    card = with_figures((ROOT / PAGE).read_text(), tmp_path)
    assert "| against other fp32, points |" in card
    assert "pictures/answers_other.jpg" in card
    assert "| `other`, CamVid `val`, 84 images" in readme_table(tmp_path)
    assert " --model models/other.mtc" in benchmarks(tmp_path)

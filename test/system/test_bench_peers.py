"""The bench of public networks: bundles that do what they do, ours beside them."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import peers_study
from bench.judging import answers
from bench.peers_accuracy import main
from bench.study import peers_study_tables
from offline_compress.evaluation.evidence_file import write_evidence
from offline_compress.evaluation.subject import Subject, open_subject
from offline_compress.study.folds import folds_of, judged_sets
from offline_compress.study.networks import EVIDENCE
from offline_compress.study.study import Study, load_study
from support.labelled_roads import DataSet, road
from support.tiny_study import write_study
from support.toy_bundle import write_toy_bundle


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = DataSet(tmp_path / "roads")
    rgb, drivable, lane, box = road()
    made.add("a", rgb, drivable, lane, [box])
    made.add("b", rgb, drivable, np.zeros_like(lane), [box])
    return made.root


def test_each_is_scored_in_what_it_does(tmp_path: Path, data: Path) -> None:
    masks = write_toy_bundle(tmp_path / "m.mtc", tasks=("drivable", "lane"), name="masks")
    boxes = write_toy_bundle(tmp_path / "b.mtc", tasks=("detection",), name="boxes")
    ours = write_toy_bundle(tmp_path / "o.mtc", name="ours")
    where = ("--results", str(tmp_path), "--no-latency", "--data", str(data))
    assert main([str(masks), str(boxes), "--model", str(ours), *where]) == 0
    found = json.loads((tmp_path / "peers_accuracy.json").read_text())
    assert found["images"] == {"roads val": 2}
    sets = {name: one["sets"]["roads val"] for name, one in found["networks"].items()}
    assert {name: set(one) for name, one in sets.items()} == {
        "masks": {"drivable", "lane"},
        "boxes": {"detection"},
        "ours": {"detection", "drivable", "lane"},
    }
    assert sets["masks"]["drivable"]["miou"] == 1.0
    assert sets["ours"] == sets["masks"] | sets["boxes"]
    assert "latency_ms" not in found["networks"]["masks"]


def test_public_networks_on_the_frames_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    blind = open_subject(write_toy_bundle(tmp_path / "b.mtc", tasks=("drivable", "lane")))
    masks = write_toy_bundle(tmp_path / "m.mtc", tasks=("drivable", "lane"), name="masks")
    whole = write_toy_bundle(tmp_path / "w.mtc", name="whole")
    study = load_study(path)
    write_record(study, open_subject(whole))
    (tmp_path / "study_mini.json").write_text(json.dumps({"folds": list(study.held_out.drives)}))
    asked = ([str(masks), str(whole)], ["--study", str(path), "--results", str(tmp_path)])
    assert peers_study.main([*asked[0], *asked[1]]) == 0
    found = json.loads((tmp_path / "peers_study.json").read_text())
    # Of drive A every second image of a split, of drive B all.
    parts = {f"{one['set']} {one['part']}": one["images"] for one in found["lines"]}
    assert parts == {
        **{"drives all": 7, "drives north": 3, "drives south": 4},
        **{"drives light day": 4, "drives light dusk": 3, "other all": 2},
    }
    rows = found["lines"][0]["rows"]
    assert set(rows["masks"]) == {"drivable.miou", "lane.iou"}
    assert {"detection.map50", "detection.recall_at_threshold"} < set(rows["whole"])
    # The record is of the same network: nothing has changed, and that is known for certain.
    assert {one["change"] for one in rows["whole"].values()} == {0.0}
    assert "change" not in rows["control"]["drivable.miou"]
    tables = list(peers_study_tables(found))
    assert "drives, north: 3 images, " not in " ".join(one.title for one in tables)

    write_record(study, blind, images=1)
    assert peers_study.main([*asked[0], *asked[1]]) == 2


def write_record(study: Study, subject: Subject, images: int | None = None) -> None:
    """What the study's reference says, as if it was judged, of the first images of every set."""
    for fold in folds_of(study.held_out):
        for name, samples in judged_sets(study, fold, subject.class_map).items():
            one = answers(subject, samples[:images], fold.drive)
            for seed in study.seeds:
                folder = Path("studies", study.name, fold.drive, f"control-s{seed}", EVIDENCE)
                folder.mkdir(parents=True, exist_ok=True)
                write_evidence(folder / f"{name}.npz", one.stems, one.evidence, one.attributes)


def test_two_of_one_name_are_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(write_toy_bundle(tmp_path / "m.mtc"))
    assert main([bundle, bundle, "--data", str(data)]) == 2
    assert "two of the bundles have one name" in capsys.readouterr().err

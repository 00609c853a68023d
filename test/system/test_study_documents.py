"""What documents show of a study and of public networks."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.readme import benchmarks, readme_table
from bench.study import (
    STUDENTS,
    STUDY,
    intervals,
    markdown,
    panels,
    stretch,
    students_values,
    study_values,
)
from bench.tables import render
from mtc_perception.core.bundle import sha256_hex
from mtc_perception.util.provenance import provenance
from offline_compress.evaluation.evaluation_report import TextTable
from offline_compress.report.compression_charts import networks
from offline_compress.study.networks import read_judged
from offline_compress.study.report import write_result
from support.checkout import ROOT


def figure(value: float, **against: Any) -> dict[str, Any]:
    return {"value": value, "deviation": None, **against}


def result(timed: bool = True) -> dict[str, Any]:
    """A study of two rows on one set."""
    times = {"openvino": 5.0, "onnxruntime": 6.0} if timed else None
    about = {"kind": "control", "networks": 4, "params": 2e6, "gmacs": 3.0, "latency_ms": times}
    lost = {"change": -0.02, "low": -0.03, "high": -0.01, "verdict": "lost"}
    rows = {
        "control": {"detection.map50": figure(0.5), "drivable.miou": figure(0.9)},
        "half": {
            "detection.map50": figure(0.48, **lost),
            "drivable.miou": figure(0.9, **lost | {"change": 0.0, "verdict": "unclear"}),
        },
    }
    line = {"set": "camvid", "images": 9, "objects": 3, "rows": rows}
    return {
        "name": "camvid",
        "study": {
            "held_out": {"drives": {"a": ["a*"], "b": ["b*"], "c": ["c*"]}},
            "seeds": [0],
            "rows": ["control", "half"],
        },
        "folds": ["a", "b"],
        "reference": "control",
        "margins_points": {"detection.map50": 1.5},
        "rows": {"control": about, "half": about | {"kind": "student"}},
        "lines": [line | {"part": "all"}, line | {"part": "a"}],
        **provenance(),
    }


def peers() -> dict[str, Any]:
    sets = {"camvid": {"drivable": {"miou": 0.8}}, "idd val": {"drivable": {"miou": 0.7}}}
    return {
        "images": {"camvid": 9, "idd val": 5},
        "networks": {"Other": {"sets": sets, "latency_ms": {"openvino": 9.0}}},
        **provenance(),
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The committed results, with a study and the public networks."""
    for path in (ROOT / "results").glob("*.json"):
        (tmp_path / path.name).symlink_to(path)
    for name, content in (("study_camvid", result()), ("peers_accuracy", peers())):
        (tmp_path / f"{name}.json").unlink(missing_ok=True)
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_a_study_stands_in_the_documents_with_its_intervals(results: Path) -> None:
    page = benchmarks(results)
    assert "| half | 0.480, -2.0 (-3.0 to -1.0), lost | 0.900, +0.0 (-3.0 to -1.0), unclear" in page
    assert "**camvid, a: 9 images, 3 vehicles**" in page
    assert "| camvid, 9 images | Other | " in page
    assert "pictures/accuracy_latency.svg" in page
    assert "pictures/study_changes.svg" in page
    assert "(2 of 3: a, b)" in page
    assert "studies/camvid.yaml --fold a --fold b --row control --row half`" in page
    assert "mAP50 -2.0 (-3.0 to -1.0), drivable mIoU +0.0" in readme_table(results)
    short = render("method_study.md.j2", **study_values(results))
    assert "camvid, all: 9 images" in short
    assert "camvid, a: 9 images" not in short


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.014, 0.01, "reached"), (-0.02, 0.0, "not shown"), (-0.03, -0.016, "missed")],
)
def test_the_stretch_has_a_verdict_on_each_of_its_parts(
    low: float, high: float, verdict: str
) -> None:
    study = result()
    assert intervals(study) == 4
    assert stretch(study) == []  # nothing is known of mAP50-95
    study["lines"][0]["rows"]["half"]["detection.map50_95"] = figure(
        0.3, change=(low + high) / 2, low=low, high=high
    )
    study["rows"]["half"] |= {"params": 0.7e6, "gmacs": 1.3}
    [one] = stretch(study)
    assert {name: cost["reached"] for name, cost in one["costs"].items()} == {
        "params": True,
        "gmacs": False,
    }
    assert one["costs"]["params"]["saved"] == pytest.approx(0.65)
    assert one["verdict"] == verdict


@pytest.mark.parametrize("name", [STUDY, STUDENTS])
def test_the_evidence_of_the_committed_study_is_kept(name: str) -> None:
    study = json.loads((ROOT / "results" / f"{name}.json").read_text())
    networks = {
        name: digest for row in study["rows"].values() for name, digest in row["weights"].items()
    }
    assert {name.split()[0] for name in networks} == set(study["folds"])
    for name, digest in networks.items():
        folder = ROOT.joinpath("results", "studies", "camvid", *name.split())
        judged = read_judged(folder)
        assert judged["sha256"] == digest
        kept = {one.stem: sha256_hex(one.read_bytes()) for one in folder.glob("evidence/*.npz")}
        assert kept == judged["evidence"]


def test_what_is_not_measured_is_not_shown(tmp_path: Path) -> None:
    assert "Not measured yet" in render("method_study.md.j2", **study_values(tmp_path))
    assert "Not measured yet" in render("method_students.md.j2", **students_values(tmp_path))
    assert study_values(tmp_path)["study_tables"] == []


def test_all_networks_stand_in_one_picture_where_they_were_timed() -> None:
    content = peers()
    found = panels(content)
    assert [one.title for one in found] == ["camvid: drivable mIoU", "idd val: drivable mIoU"]
    assert found[0].marks == {"Other": (9.0, 0.8)}
    svg = networks(found, "ms")
    assert svg.startswith("<svg")
    assert "Other" in svg
    del content["networks"]["Other"]["latency_ms"]
    assert panels(content) == []


@pytest.mark.parametrize("timed", [True, False])
def test_the_page_of_a_study(tmp_path: Path, timed: bool) -> None:
    write_result(tmp_path, result(timed))
    page = (tmp_path / "report.html").read_text()
    assert "0.480\n-2.0 (-3.0 to -1.0)\nlost" in page
    assert "Points against control" in page
    assert ("Accuracy over latency" in page) == timed
    assert json.loads((tmp_path / "result.json").read_text())["reference"] == "control"


def test_a_table_as_markdown() -> None:
    table = TextTable("title", ["a", "b"], [[["1", "2"]], [["3", ""]]])
    assert markdown(table) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 |  |\n"

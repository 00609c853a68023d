"""What the benchmark of the whole way plays, and what it makes of its measurements."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.end_to_end import result_of
from bench.live_cameras import Case, Measured, play
from bench.readme import benchmarks, readme_table
from bench.start import first_answer_s
from mtc_perception.replay.live.live_run import Usage
from mtc_perception.runtime.frames import STAGES
from mtc_perception.util.provenance import provenance
from support.checkout import ROOT
from support.replay_bags import stamps, write_drive

FOUR = ("front", "left", "right", "rear")
ENGINE = {"engine": "openvino", "device": "OpenVINO 2026, a CPU, 2 threads", "precision": "int8"}


def measured(times_ms: list[float], unanswered: int = 0, growth_mib: float = 0.0) -> Measured:
    usage = [
        Usage(since, 300 + growth_mib * (since > 20), since / 10) for since in (0.0, 12.0, 30.0)
    ]
    return Measured(
        images=len(times_ms) + unanswered,
        unanswered=unanswered,
        stages_ms=dict.fromkeys((*STAGES, "published"), times_ms),
        usage=[usage, usage],
        cpu_ms=[12.0, 14.0],
        engine=ENGINE,
    )


def result(**changes: Measured) -> dict[str, Any]:
    cases = {
        Case(("front",), 30.0, "raw", "fp32"): measured([16.0] * 100),
        Case(("front",), 30.0, "raw", "int8"): changes.get("raw", measured([9.0] * 100)),
        Case(("front",), 30.0, "compressed", "int8"): changes.get("jpeg", measured([11.0] * 100)),
        Case(FOUR, 10.0, "compressed", "int8"): changes.get("four", measured([30.0] * 100)),
    }
    bare_ms = {"fp32": [11.0] * 10, "int8": [4.5] * 10}
    return result_of(cases, bare_ms, [6.25, 1.75], "int8")


def missed(content: dict[str, Any]) -> list[str]:
    return [name for name, one in content["targets"].items() if not one["met"]]


def test_every_target_can_be_met_and_missed() -> None:
    assert missed(result()) == []
    slow = [10.1] * 98 + [40.0] * 2
    assert missed(result(raw=measured(slow, 1, 5.5))) == [
        "raw, p50",
        "raw, p99",
        "raw, no drops",
        "memory flat",
    ]
    assert missed(result(jpeg=measured([12.0] * 100, 2))) == ["JPEG, p50", "JPEG, no drops"]
    assert missed(result(four=measured([30.0], 1))) == ["4 cameras, no drops"]


def test_the_pages_show_every_case(tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(ROOT / "results", results)
    content = result(raw=measured([9.0] * 99, 1)) | provenance()
    (results / "end_to_end.json").write_text(json.dumps(content))
    page, table = benchmarks(results), readme_table(results)
    assert "| raw, 30 Hz, fp32 | 16.0 | 16.0 | 16.0 | 0 of 100 | 13.0 | 300 |" in page
    assert "| 4 cameras, JPEG, 10 Hz, int8 | 30.0 | 30.0 | 30.0 | 0 of 100 | 13.0 | 300 |" in page
    assert "| bare engine, int8 | 4.5 | 4.5 | 4.5 | | | |" in page
    assert "| raw, no drops | 1 of 100 images without an answer (missed) |" in page
    assert "6.2 s the first time,\n1.8 s from then on" in page
    assert "1280x720 raw, 30 Hz, int8 | p50 9.0 ms, p99 9.0 ms; 1 of 100 images" in table


@pytest.mark.dds
def test_several_cameras_are_played_and_recorded(tmp_path: Path, toy_bundle: Path) -> None:
    drive = write_drive(tmp_path / "drive", stamps(10, 10.0))
    case = Case(("front", "left"), 5.0, "compressed", "fp32")
    both = Measured()
    play(toy_bundle, drive, case, 2.0, both)
    assert both.images == 20  # 2 s of 2 cameras at 5 Hz
    assert both.unanswered == 0
    assert set(both.stages_ms) == {*STAGES, "published"}
    assert all(len(values) == 20 for values in both.stages_ms.values())
    assert both.engine["precision"] == "fp32"
    assert min(both.stages_ms["end_to_end"]) > 0
    play(toy_bundle, drive, case, 1.0, both)
    assert both.images == 30
    assert len(both.usage) == len(both.cpu_ms) == 2


@pytest.mark.dds
def test_the_first_answer_of_a_node_that_starts_itself(tmp_path: Path, toy_bundle: Path) -> None:
    drive = write_drive(tmp_path / "drive", stamps(10, 10.0))
    assert 0.1 < first_answer_s(toy_bundle, drive) < 30.0

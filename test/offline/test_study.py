"""A study in miniature: what it leaves, that it survives kills, and what it refuses."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from mtc_perception.util.errors import UserError
from offline_compress.evaluation.evidence_file import read_evidence
from offline_compress.pruning.plan import read_plan
from offline_compress.study.run import (
    Chosen,
    claim,
    missing,
    plan,
    tables,
    to_make,
    why_no_tables,
)
from offline_compress.study.study import load_study
from support.tiny_study import run, write_study

pytestmark = pytest.mark.slow
OUT = Path("runs/studies/mini")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one study, killed twice and gone on with."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    for moment in (5, 30):
        assert run(folder, stop_at=moment) == -signal.SIGKILL
    assert run(folder, "--no-latency") == 0
    return folder


@pytest.mark.fault(
    area="offline",
    row="a study is killed, several times",
    answer="The same command goes on with the network and the stage at which it was.",
    diagnostics="Each stage says where it goes on; the tables follow.",
)
def test_every_row_is_judged_on_the_drive_that_it_never_saw(workspace: Path) -> None:
    result = json.loads((workspace / OUT / "result.json").read_text())
    assert list(result["rows"]) == ["teacher", "control", "half", "taught", "direct"]
    assert [one["networks"] for one in result["rows"].values()] == [2, 4, 4, 4, 4]
    assert result["rows"]["half"]["params"] <= 0.7 * result["rows"]["teacher"]["params"]
    # One pruned network, two recoveries.
    assert result["rows"]["taught"]["params"] == result["rows"]["half"]["params"]
    weights = [result["rows"][name]["weights"].values() for name in ("half", "taught")]
    assert not set(weights[0]) & set(weights[1])
    assert not (workspace / OUT / "north" / "taught").exists()
    lines = {(one["set"], one["part"]): one for one in result["lines"]}
    # Of the four images of drive A, of two splits, every second one.
    assert lines["drives", "north"]["images"] == 3
    assert lines["drives", "all"]["images"] == 7
    assert lines["drives", "light dusk"]["images"] == 3
    assert lines["other", "all"]["images"] == 2
    for line in lines.values():
        for name, row in line["rows"].items():
            for figure in ("detection.map50", "detection.recall_at_threshold", "drivable.miou"):
                # A road may be without vehicles.
                assert (row[figure]["value"] is None) == (
                    not line["objects"] and figure != "drivable.miou"
                )
                assert ("change" in row[figure]) == (name != "control")
    for fold, drive in (("north", "A"), ("south", "B")):
        stems, _ = read_evidence(workspace / OUT / fold / "half-s1" / "evidence" / "held_out.npz")
        assert stems
        assert all(stem.startswith(drive) for stem in stems)
    page = (workspace / OUT / "report.html").read_text()
    assert "drives, north: 3 images" in page


def test_what_is_done_is_not_done_again(workspace: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (workspace / OUT).rglob("*.safetensors")}
    assert run(workspace) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    result = json.loads((workspace / OUT / "result.json").read_text())
    assert result["rows"]["half"]["latency_ms"]["openvino"] > 0
    assert "<svg" in (workspace / OUT / "report.html").read_text()


def test_weights_are_not_needed_for_tables(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("drives", "other", "check", "recipe.yaml", "study.yaml"):
        (tmp_path / name).symlink_to(workspace / name)
    for pattern in ("study.yaml", "*/*/judged.json", "*/*/evidence/*.npz"):
        for path in (workspace / OUT).glob(pattern):
            copy = tmp_path / path.relative_to(workspace)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    assert run(tmp_path, "--no-latency") == 0
    first, second = (
        json.loads((folder / OUT / "result.json").read_text()) for folder in (workspace, tmp_path)
    )
    assert first["lines"] == second["lines"]
    assert first["rows"]["half"]["weights"] == second["rows"]["half"]["weights"]
    assert not list((tmp_path / "runs").rglob("*.safetensors"))

    monkeypatch.chdir(tmp_path)
    study = load_study(Path("study.yaml"))
    more = study.model_copy(update={"seeds": [0, 1, 2]})
    words = "teacher holds no weights, only what was judged, and [ns]o[ru]th half starts from them"
    with pytest.raises(UserError, match=words):
        to_make(Chosen.of(more, OUT, rows=["half"]).networks())
    # Other terms: nothing that is there is taken for an answer.
    other = study.model_copy(update={"set": {"schedule.learning_rate": 0.01}})
    assert len(to_make(Chosen.of(other, OUT).networks())) == 2 * (1 + 2 + 3 + 2 + 3)
    # A changed file of evidence is none.
    evidence = OUT / "south" / "control-s1" / "evidence" / "other.npz"
    evidence.write_bytes(evidence.read_bytes()[:-1])
    assert [one.name for one in missing(Chosen.of(study, OUT).networks())] == ["south control-s1"]


def test_margins_are_stated_before_the_run(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    stated = load_study(Path("study.yaml"))
    claim(stated, OUT)
    elsewhere = stated.held_out.model_copy(update={"root": Path("elsewhere/drives")})
    claim(stated.model_copy(update={"held_out": elsewhere}), OUT)
    later = stated.model_copy(update={"margins": stated.margins | {"detection.map50": 15.0}})
    words = r"other terms: margins.detection.map50 was 1.5 and is 15.0; give another --out"
    with pytest.raises(UserError, match=words):
        claim(later, OUT)
    with pytest.raises(UserError, match="drives is not empty and holds no study"):
        claim(stated, Path("drives"))


def test_a_part_has_tables_of_its_own(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    study = load_study(Path("study.yaml"))
    part = Chosen.of(study, OUT, rows=["control"])
    assert part.rows == ["teacher", "control"]
    assert why_no_tables(part) == ""
    assert list(tables(part, lambda *_: None)["rows"]) == ["teacher", "control"]
    alone = tables(Chosen.of(study, OUT, drives=["north"]), lambda *_: None)
    [line] = [one for one in alone["lines"] if (one["set"], one["part"]) == ("other", "all")]
    # No other drive to choose a threshold on.
    assert {"detection.map50", "drivable.miou"} <= line["rows"]["half"].keys()
    assert not [name for name in line["rows"]["half"] if name.endswith("threshold")]
    assert "--row control" in why_no_tables(Chosen.of(study, OUT, rows=["half"]))
    with pytest.raises(UserError, match="no row quarter in the study: teacher, control, half"):
        Chosen.of(study, OUT, reference="quarter")


def test_two_students_are_compared(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    study = load_study(Path("study.yaml"))
    pair = Chosen.of(study, OUT, rows=["half", "taught"], reference="half")
    found = tables(pair, lambda *_: None)
    assert found["reference"] == "half"
    [line] = [one for one in found["lines"] if (one["set"], one["part"]) == ("drives", "all")]
    assert "change" not in line["rows"]["half"]["drivable.miou"]
    assert line["rows"]["taught"]["drivable.miou"].keys() >= {"change", "low", "high", "verdict"}


def test_rows_that_are_not_chosen_need_not_be_possible(tmp_path: Path) -> None:
    missing = {"name": "direct", "kind": "direct", "set": {"start_from": "not made yet"}}
    write_study(tmp_path, rows=[{"name": "control", "kind": "control"}, missing])
    assert run(tmp_path, "--row", "control", "--fold", "north", "--no-latency") == 0
    assert (tmp_path / OUT / "north" / "control-s1" / "evidence" / "held_out.npz").is_file()
    assert not (tmp_path / OUT / "north" / "direct-s0").exists()


def test_a_plan_tells_what_the_study_cannot_begin_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"name": "direct", "kind": "direct", "set": {"start_from": "not made yet"}}
    write_study(tmp_path, rows=[{"name": "control", "kind": "control"}, missing])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="not made yet does not exist"):
        plan(Chosen.of(load_study(Path("study.yaml")), OUT))
    assert run(tmp_path, "--plan") == 2
    assert run(tmp_path, "--plan", "--row", "control") == 0


def test_a_student_that_is_not_pruned_is_none(tmp_path: Path) -> None:
    guard = {"detection": 1e-6, "drivable": 1e-6, "lane": 1e-6}
    rows = [{"name": "half", "kind": "student"}]
    setup = {"compress.prune.steps": 2, "compress.prune.guard": guard}
    write_study(tmp_path, rows=rows, reference="half", set=setup)
    for _ in range(2):  # and no second call takes it for done
        assert run(tmp_path, "--fold", "north", "--no-latency") == 2
        cut = read_plan(tmp_path / OUT / "north" / "half" / "prune" / "plan.json")
        assert cut.steps[-1].taken_back
        assert not (tmp_path / OUT / "north" / "half-s0").exists()

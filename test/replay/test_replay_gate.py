"""Evaluation as a gate: scenarios, limits, exit codes, what a mistake is answered with."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mtc_perception.node.parameters import default_bundle
from mtc_perception.replay.results.run_result import read_result
from mtc_perception.replay.run.scenario import junit_xml, read_scenario
from mtc_perception.replay.stream.task import Failure
from mtc_perception.util.errors import UserError
from mtc_perception.util.locking import LOCK_FILE
from support.bag_messages import COMPRESSED, COUNT, packed, write_bag
from support.replay_rig import labelled_bag, run


def test_a_broken_bag_does_not_stop_the_others(
    tmp_path: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = labelled_bag(tmp_path / "good")
    bad = labelled_bag(tmp_path / "bad")
    (bad / "bad.mcap").write_bytes(b"\x89MCAP0\r\n")
    options = ("--bundle", toy_bundle, "--engine", "onnxruntime", "--out", tmp_path / "run")
    assert run("evaluate", bad, good, *options) == 1
    result = read_result(tmp_path / "run")
    assert result["frames_processed"] == COUNT
    [failure] = result["failed"]
    assert "bad.mcap cannot be read as a rosbag2" in failure["error"]
    assert "not evaluated: bad" in capsys.readouterr().out


def test_nothing_evaluated_says_why_of_every_stream(
    tmp_path: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "other"):
        (labelled_bag(tmp_path / name) / f"{name}.mcap").write_bytes(b"\x89MCAP0\r\n")
    out = tmp_path / "run"
    options = ("--bundle", toy_bundle, "--engine", "onnxruntime", "--out", out)
    assert run("evaluate", tmp_path / "one", *options) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "one.mcap cannot be read as a rosbag2" in line
    assert run("evaluate", tmp_path / "one", tmp_path / "other", *options) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: none of 2 streams could be evaluated: one: ")
    assert "other.mcap cannot be read as a rosbag2" in line.partition("; other: ")[2]
    assert not out.exists()
    (tmp_path / "drive").symlink_to("one")
    file = scenario(tmp_path, toy_bundle, "  detection.recall: {min: 0.01}\n")
    assert run("evaluate", "--scenario", file, "--out", out) == 2
    assert {path.name for path in out.iterdir()} == {"junit.xml", LOCK_FILE}
    suite = ET.parse(out / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "1")


def test_a_stream_without_any_answer_is_no_success(
    tmp_path: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = [packed(index, "jpeg", b"\1\2\3") for index in range(3)]
    bag = write_bag(tmp_path / "silent", {"/cam": (COMPRESSED, damaged)})
    good = labelled_bag(tmp_path / "good")
    options = ("--bundle", toy_bundle, "--engine", "onnxruntime", "--out")
    for name, *recordings in (("one", bag), ("two", bag, good)):
        assert run("evaluate", *recordings, *options, tmp_path / name) == 1
        assert "no answer: silent:/cam: none of its images could be" in capsys.readouterr().out
    assert run("evaluate", good, *options, tmp_path / "three") == 0


def test_a_node_s_last_words_are_xml(tmp_path: Path) -> None:
    words = "its last words:\n  \x1b[31mno <engine>\x00 & more\x1b[0m ä"
    file = tmp_path / "junit.xml"
    file.write_text(junit_xml("nightly", [], [Failure("drive", words)]))
    [error] = ET.parse(file).getroot().iter("error")
    assert error.get("message") == "its last words:\n  ?[31mno <engine>? & more?[0m ä"


@pytest.mark.fault(
    area="replay",
    row="a replay into the folder of an earlier one fails",
    answer="The earlier result and page stay; a limit's report is of the new one.",
    diagnostics="Exit code 2 and why.",
)
def test_a_failed_try_leaves_the_result_of_an_earlier_one(tmp_path: Path, toy_bundle: Path) -> None:
    bag = labelled_bag(tmp_path / "drive")
    out = tmp_path / "run"
    words = ("evaluate", bag, "--bundle", toy_bundle, "--engine", "onnxruntime", "--out", out)
    assert run(*words) == 0
    before = {name: (out / name).read_bytes() for name in ("result.json", "index.html")}
    (bag / "drive.mcap").write_bytes(b"\x89MCAP0\r\n")
    assert run(*words) == 2
    assert {name: (out / name).read_bytes() for name in before} == before
    assert run("report", out) == 0


def test_a_fifo_is_no_scenario(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "nightly.yaml")
    with pytest.raises(UserError, match="not a regular file"):
        read_scenario(tmp_path / "nightly.yaml", {})


def scenario(folder: Path, bundle: Path, limits: str, extra: str = "") -> Path:
    path = folder / "nightly.yaml"
    path.write_text(
        f"name: nightly drive\nbundle: {bundle}\nengine: onnxruntime\nthreads: 1\n{extra}"
        f"bags:\n  - path: drive\n    topics: [/front/image_raw]\nlimits:\n{limits}"
    )
    return path


def test_a_scenario_passes_and_fails(
    tmp_path: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled_bag(tmp_path / "drive")
    easy = "  detection.recall: {min: 0.01}\n  latency_ms.end_to_end.p95: {max: 100000}\n"
    file = scenario(tmp_path, toy_bundle, easy)
    out = tmp_path / "run"
    assert run("evaluate", "--scenario", file, "--out", out) == 0
    result = read_result(out)
    assert (result["passed"], result["scenario"]) == (True, "nightly drive")
    assert [check["name"] for check in result["checks"]] == [
        "detection.recall",
        "latency_ms.end_to_end.p95",
    ]
    hard = easy + "  lane.iou: {min: 0.999}\n  agreement.lane.iou: {min: 0.1}\n"
    assert run("evaluate", "--scenario", scenario(tmp_path, toy_bundle, hard), "--out", out) == 1
    result = read_result(out)
    assert result["passed"] is False
    assert [check["passed"] for check in result["checks"]] == [True, True, False, False]
    assert result["checks"][3]["value"] is None
    assert "FAILED: agreement.lane.iou not measured (min 0.1)" in capsys.readouterr().out
    suite = ET.parse(out / "junit.xml").getroot()
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == (
        "nightly drive",
        "4",
        "2",
    )
    [low, missing] = suite.findall("testcase/failure")
    assert "wanted at least 0.999" in str(low.get("message"))
    assert "not measured" in str(missing.get("message"))


@pytest.mark.parametrize(
    ("limits", "extra", "reason"),
    [
        ("  detection.recal: {min: 1}\n", "", "near are detection.recall"),
        ("  lane.iou: {}\n", "", "limits.lane.iou: give min, max or both"),
        ("  lane.iou: {min: 2, max: 1}\n", "", "min 2 is above max 1"),
        ("  lane.iou: {min: 0}\n", "speed: 3\n", "speed: Extra inputs are not permitted"),
        ("  lane.iou: {min: 0}\n", "seconds: -3\n", "seconds: Input should be greater than 0"),
        ("  lane.iou: {min: [}\n", "", "is not YAML"),
    ],
)
def test_a_wrong_scenario_says_where(
    tmp_path: Path,
    toy_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    limits: str,
    extra: str,
    reason: str,
) -> None:
    file = scenario(tmp_path, toy_bundle, limits, extra)
    assert run("evaluate", "--scenario", file) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}")
    assert reason in error


def test_mistakes_are_one_line(
    tmp_path: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = labelled_bag(tmp_path / "drive")
    for words, reason in (
        ((bag,), "give the network to run: --bundle"),
        (("--bundle", toy_bundle), "give BAG... or --scenario"),
        ((tmp_path / "no", "--bundle", toy_bundle), "no does not exist"),
        ((bag, "--bundle", tmp_path / "no.mtc"), "no.mtc"),
        ((bag, "-b", toy_bundle, "--topic", "/x"), "no images on /x; it has /front/ground_truth"),
        ((bag, "-b", toy_bundle, "--truth-lane", "/x"), "no labels on /x; it has"),
        ((bag, "-b", toy_bundle, "--labels", tmp_path / "no"), "no does not exist"),
        ((bag, "--scenario", tmp_path / "s.yaml"), "leave out"),
    ):
        assert run("evaluate", *words, "--out", tmp_path / "run") == 2
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("error: ")
        assert reason in error
    assert not (tmp_path / "run").exists()


HOLDER = """
import sys, time
from pathlib import Path
from mtc_perception.util.locking import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.fault(
    area="replay",
    row="two replays with one --out at the same time",
    answer="The second one ends with exit code 2, the first goes on.",
    diagnostics="One line with the pid and the host of the first.",
)
def test_two_runs_do_not_share_a_folder(
    tmp_path: Path, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, bag = tmp_path / "run", labelled_bag(tmp_path / "drive")
    words = ("evaluate", bag, "-b", toy_bundle, "--engine", "onnxruntime", "--out", out)
    assert run(*words) == 0
    capsys.readouterr()
    with subprocess.Popen([sys.executable, "-c", HOLDER, out], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert run(*words) == 2
        other.kill()
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: another process works in {out} (pid {other.pid} on ")
    assert error.endswith("; wait for it or give another --out")
    assert read_result(out)["frames_processed"] == COUNT
    assert run(*words) == 0


@pytest.mark.fault(
    area="replay",
    row="a replay, or a comparison, into the folder of another one",
    answer="Refused with exit code 2; what is there stays. Default folders differ.",
    diagnostics="One line with the first field that differs.",
)
def test_results_of_something_else_are_not_written_over(
    tmp_path: Path,
    toy_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = labelled_bag(tmp_path / "first"), labelled_bag(tmp_path / "second")
    base = ("-b", toy_bundle, "--engine", "onnxruntime", "--threads", 1)
    assert run("evaluate", first, *base, "--out", "run") == 0
    before = (tmp_path / "run" / "result.json").read_bytes()
    capsys.readouterr()
    for words, field in (
        ((second, *base), "recordings.0.path"),
        ((first, second, *base), "recordings.1.path"),
        ((first, *base, "--precision", "fp32"), "precision was not given and is fp32"),
        ((first, *base, "--seconds", 1), "seconds"),
        ((first, "-b", default_bundle(), "--engine", "onnxruntime", "--threads", 1), "bundle"),
    ):
        assert run("evaluate", *words, "--out", "run") == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: run holds the result of something else: ")
        assert field in line
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    for words in ((first, *base), (second, *base), (first, *base, "--precision", "fp32")):
        assert run("evaluate", *words) == 0
    folders = sorted(path.name for path in (tmp_path / "out" / "replay").iterdir())
    name = "toy_{}_onnxruntime"
    assert folders == [name.format("first"), f"{name.format('first')}_fp32", name.format("second")]

    runs = [tmp_path / "out" / "replay" / one for one in folders]
    assert run("compare", runs[0], runs[1], "--out", "against") == 0
    assert run("compare", runs[0], runs[1], "--out", "against") == 0
    capsys.readouterr()
    assert run("compare", runs[1], runs[0], "--out", "against") == 2
    assert "against holds the result of something else: a was" in capsys.readouterr().err

"""The whole pipeline in miniature: what it leaves, that it survives kills, and what it refuses."""

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from mtc_perception.core.bundle import read_bundle
from mtc_perception.engines.open import open_engine
from mtc_perception.util.errors import UserError
from mtc_perception.util.provenance import command_line
from offline_compress import cli
from offline_compress.models.registry import load_checkpoint, load_spec
from offline_compress.pipeline.delivery_stages import Measured
from offline_compress.pipeline.folder import RunFolder
from offline_compress.pipeline.pipeline import STAGES, run_pipeline
from offline_compress.pipeline.stages import decide, read_marker
from offline_compress.recipe.recipe import load_recipe
from offline_compress.report.compression_report import write_report
from offline_compress.report.compression_rows import read_row
from offline_compress.training.trainer import Trainer
from support.checkout import ROOT
from support.tiny_pipeline import outcome, run, write_workspace

pytestmark = pytest.mark.slow

HOLDER = """
import fcntl, time
file = open("busy/.lock", "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, recipe, teacher, and one finished run, `whole`."""
    folder = tmp_path_factory.mktemp("workspace")
    write_workspace(folder)
    assert run(folder, "whole") == 0
    return folder


@pytest.fixture
def _here(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)


def test_a_run_leaves_a_student_its_bundle_and_a_row(workspace: Path) -> None:
    out = workspace / "whole"
    row = json.loads((out / "result.json").read_text())
    assert row["student"]["params"] <= 0.7 * row["teacher"]["params"]
    assert row["recipe"] == "tiny"
    assert row["command"] == "mtc-compress run"
    assert row["settings"]["prune"]["criterion"] == "tci_max"
    assert list(row["seconds"]) == sorted(stage.name for stage in STAGES)
    assert row["seconds"]["evaluate"] > 0
    assert row["budget"]["parameters"]["kept"]
    assert row["taken_back"] == ""
    for who in ("teacher", "student"):
        assert {"recall", "map50", "map50_95", "best_f1"} < set(row[who]["detection"])
        assert row[who]["latency_ms"] == row[who]["latency_ms_by_engine"]["openvino"] > 0
    assert str(workspace) not in (out / "result.json").read_text()

    assert load_spec(workspace / "runs" / "tiny" / "best").shapes == {}
    assert sum(p.numel() for p in load_checkpoint(out / "recover" / "best").parameters()) > 0
    bundle = read_bundle(out / "tiny_student.mtc")
    assert bundle.manifest.params == row["student"]["params"]
    assert bundle.manifest.thresholds_chosen_on == "roads train, 4 images"
    steps = [step.step for step in bundle.manifest.lineage]
    assert steps[0] == "train"
    assert steps[-3:] == ["prune", "distill", "export"]
    engine, *_ = open_engine(bundle, "onnxruntime")
    engine.close()
    assert yaml.safe_load((out / "recipe.yaml").read_text())["compress"]["seed"] == 0


def test_a_finished_run_is_not_done_again(workspace: Path) -> None:
    out = workspace / "whole"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != ".lock"}
    assert run(workspace, "whole") == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.fault(
    area="offline",
    row="a compression is given into the folder of a finished one of another recipe",
    answer="Refused with exit code 2, before anything is replaced; --redo does it again there.",
    diagnostics="One line with the field, what it was and what it is.",
)
@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("command", ["run", "prune", "distill", "quantize"])
def test_a_finished_run_is_not_replaced_by_that_of_another_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    before = {path: path.read_bytes() for path in Path("whole").rglob("*") if path.is_file()}
    change = "compress.prune.criterion=l2"
    words = ["--recipe", "tiny.yaml", "--out", "whole", "--set", change]
    monkeypatch.setattr(sys, "argv", ["mtc-compress", command, *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: whole holds the result of something else: compress.prune.crit")
    assert "was tci_max and is l2; give another --out, or --redo to do prune " in error
    after = {path: path.read_bytes() for path in before}
    assert {path.name for path in before if before[path] != after[path]} <= {".lock"}


@pytest.mark.usefixtures("_here")
def test_every_dry_run_has_its_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for changes in ([], ["--set", "compress.prune.criterion=l2"]):
        words = ["prune", "--recipe", "tiny.yaml", "--out", "dry", "--dry-run", *changes]
        monkeypatch.setattr(sys, "argv", ["mtc-compress", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        assert Path(capsys.readouterr().out.splitlines()[-1], "dry_run.json").is_file()
    assert len(list(Path("dry/dry_run").iterdir())) == 2


@pytest.mark.fault(
    area="offline",
    row="a compression is killed or interrupted, several times",
    answer="The same command goes on and ends with the same plan, weights and bundle.",
    diagnostics="Each stage says where it goes on.",
)
def test_killed_at_random_moments_and_interrupted_it_ends_the_same(workspace: Path) -> None:
    files = int((workspace / "whole.count").read_text())
    dice = random.Random(4)
    for moment in dice.sample(range(2, files // 4), 3):
        assert run(workspace, "killed", stop_at=moment) == -signal.SIGKILL
    assert run(workspace, "killed", stop_at=files // 4, how=signal.SIGINT) > 0
    assert run(workspace, "killed") == 0
    assert outcome(workspace / "killed") == outcome(workspace / "whole")


def again(*changes: str) -> list[str]:
    """Stages of the run `moved` that would be done again."""
    run_ = RunFolder.of(load_recipe(Path("tiny.yaml"), changes), Path("moved").absolute())
    return [stage.name for stage in STAGES if not decide(stage(run_), run_.path).skip]


@pytest.mark.usefixtures("_here")
def test_stages_know_networks_by_content_and_recipes_by_what_they_use() -> None:
    shutil.copytree("whole", "moved")
    assert again() == []
    # The teacher at another place and called otherwise.
    shutil.copytree("runs/tiny/best", "copied")
    assert again("compress.teacher=copied") == ["teacher"]
    assert again("compress.recover.schedule.accumulate=2") == ["evaluate"]
    assert again("compress.quantise.tolerance=0.5") == ["quantise", "evaluate"]
    assert again("compress.recover.schedule.epochs=5") == ["recover", "evaluate"]
    assert again("compress.recover.from_scratch=true") == ["recover", "evaluate"]
    assert again("compress.recover.crop={height: 96, width: 96}")[:2] == ["prune", "recover"]
    assert again("compress.prune.distillation=0.5") == ["prune", "evaluate"]
    assert again("mosaic=0.5")[:3] == ["teacher", "prune", "recover"]


@pytest.mark.usefixtures("_here")
def test_the_report_shows_the_networks_of_the_result_and_no_others() -> None:
    folder = Path("whole")
    row = read_row(folder)
    pages = [Path("right.html"), Path("wrong.html")]
    write_report(pages[0], [folder], [row], lambda _what, _done, _total: None)
    row["student"]["sha256"] = "another"
    write_report(pages[1], [folder], [row], lambda _what, _done, _total: None)
    assert ["Channels kept" in page.read_text() for page in pages] == [True, False]
    assert ["data:image/jpeg" in page.read_text() for page in pages] == [True, False]


def test_commands_name_what_lies_here_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", str(tmp_path / "a b"), f"teacher={tmp_path}/runs/t", "/elsewhere", "x=[1, 2]"]
    assert command_line(words) == "run 'a b' teacher=runs/t /elsewhere 'x=[1, 2]'"


def test_metrics_are_measured_once_for_the_same_networks(tmp_path: Path) -> None:
    calls = iter(range(10))

    def metrics(of: str, *names: str) -> list[int]:
        measured = Measured(tmp_path / "note", {"of": of})
        paths = [tmp_path / "metrics" / f"{name}.json" for name in names]
        found = [measured(path, lambda: {"call": next(calls)})["call"] for path in paths]
        measured.remove_others({tmp_path / "metrics" / "student.json"})
        return found

    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "student.json").write_text("{}")
    assert metrics("a", "teacher") == [0]
    assert metrics("a", "teacher", "fp16") == [0, 1]
    assert metrics("b", "teacher") == [2]
    assert sorted(path.stem for path in tmp_path.glob("metrics/*")) == ["student", "teacher"]
    assert metrics("b", "teacher", "fp16") == [2, 3]


def test_variants_are_quantised_evaluated_and_timed(workspace: Path) -> None:
    out = workspace / "whole"
    changes = ["compress.quantise.images=2", "compress.quantise.tolerance=100"]
    changes += ["compress.quantise.variants=[fp16, int8-ort]"]
    changes += ["compress.quantise.judged_images=1"]
    student = (out / "recover" / "best" / "model.safetensors").stat().st_mtime_ns
    assert run(workspace, "whole", changes) == 0
    assert (out / "recover" / "best" / "model.safetensors").stat().st_mtime_ns == student
    variants = json.loads((out / "result.json").read_text())["variants"]
    assert list(variants) == list(read_bundle(out / "tiny_student.mtc").manifest.variants)
    assert "openvino" in variants["fp16"]["engines"]
    attempts = json.loads((out / "quantise.json").read_text())
    assert {one["metrics"]["lane"]["images"] for one in attempts.values()} == {1}
    assert {
        json.loads(path.read_text())["lane"]["images"] for path in out.glob("metrics/*-*.json")
    } == {2}
    assert "onnxruntime" in variants["int8-ort"]["engines"]
    for about in variants.values():
        for one in about["engines"].values():
            assert one["latency_ms"] > 0
            assert one["detection"].keys() > {"recall", "map50", "map50_95"}


def test_a_change_redoes_what_depends_on_it(workspace: Path) -> None:
    out = workspace / "whole"
    before, pruned = outcome(out), read_marker(out, "prune")
    assert run(workspace, "whole", ["compress.recover.distillation=0"]) == 0
    # Pruning with half an epoch between its steps depends on how that recovers.
    assert read_marker(out, "prune") != pruned
    changed = outcome(out)
    assert changed["teacher"] == before["teacher"]
    assert changed["student"]["sha256"] != before["student"]["sha256"]

    pruned = read_marker(out, "prune")
    shutil.copytree(out / "tiny_student.mtc", out / "copy.mtc")
    change = ["compress.recover.distillation=0", "compress.student=other"]
    assert run(workspace, "whole", change) == 0
    assert read_marker(out, "prune") == pruned
    manifest = read_bundle(out / "other.mtc").manifest
    assert manifest.name == "other"
    assert manifest.params == changed["student"]["params"]
    assert not (out / "tiny_student.mtc").exists()
    assert read_bundle(out / "copy.mtc").manifest.name == "tiny_student"


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "compress.prune.buget=1"], "did you mean budget?"),
        (["--set", "compress=null"], "says nothing about compression"),
        (["--set", "compress.prune.budget.parameters=0.01"], "0.01"),
        (["--set", "name=untrained", "--set", "compress.prune.budget.parameters=0.01"], "0.01"),
        (["--set", "compress.prune.protect=[encodr]"], "encoder"),
        (["--set", "compress.teacher=nowhere"], "nowhere"),
        (["--set", "compress.teacher=runs/tiny/best", "--set", "input.width=256"], "width"),
        (["--set", "arguments.lane=16"], "arguments"),
        (["--set", "input.fit=stretch"], "its fit letterbox, the recipe's stretch"),
        (
            ["--set", "compress.recover.schedule.accumulate=3", "--set", "train.0.root=none"],
            "the nearest multiple of 3 is 3",
        ),
        (["--set", "validate_on.split=test"], "has no split 'test'"),
        (["--set", "train.0.root=bare", "--set", "name=bare"], "detection"),
        (["--set", "train=[{root: blank, split: test}]", "--set", "name=bare"], "detection"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    bare = workspace / "bare"
    if not bare.exists():
        # The roads without the vehicles' labels.
        bare.mkdir()
        for name in ("images", "drivable", "lane"):
            (bare / name).symlink_to(workspace / "roads" / name)
        # Images alone.
        (workspace / "blank" / "images").mkdir(parents=True)
        roads = workspace / "roads" / "images" / "val"
        (workspace / "blank" / "images" / "test").symlink_to(roads)
    command = ["mtc-compress", "run", "--recipe", "tiny.yaml", "--out", "refused", *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert words in told


@pytest.mark.usefixtures("_here")
def test_a_checkpoint_that_was_put_there_is_taken_as_the_teacher() -> None:
    shutil.copytree("runs/tiny/best", "runs/given/best")
    recipe = load_recipe(Path("tiny.yaml"), ["name=given"])
    run_pipeline(recipe, Path("given"), "", until="teacher")
    assert not Path("runs/given/state.pt").exists()

    Path("runs/given/state.pt").write_bytes(b"of long ago")
    shutil.rmtree("given")
    with pytest.raises(UserError, match=r"--set compress\.teacher=runs/given/best"):
        run_pipeline(recipe, Path("given"), "", until="teacher")


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("dry", [False, True])
def test_a_folder_of_something_else_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, dry: bool
) -> None:
    precious = [Path("mine") / name for name in ("prune/a", "recover/a", "dry_run/a", "x.mtc/a")]
    for path in precious:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    command = ["mtc-compress", "prune", "--recipe", "tiny.yaml", "--out", "mine"]
    monkeypatch.setattr(sys, "argv", command + ["--dry-run"] * dry)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "mine is not empty and holds no compression run" in capsys.readouterr().err
    assert {path.read_text() for path in precious} == {"precious"}


@pytest.mark.usefixtures("_here")
def test_a_plan_is_not_replayed_over_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("runs/tiny/best/model.safetensors").read_bytes()
    plan = ["--plan", "whole/prune/plan.json", "runs/tiny/best"]
    for out, words in (("runs/tiny/best", "is not empty"), ("cut", "")):
        monkeypatch.setattr(sys, "argv", ["mtc-compress", "prune", *plan, "--out", out])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert bool(stopped.value.code) == bool(words)
        assert words in capsys.readouterr().err
    assert Path("runs/tiny/best/model.safetensors").read_bytes() == before
    assert Path("cut/model.safetensors").is_file()


def test_a_damaged_note_of_the_command_is_written_anew(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "config/recipes/mtc_xs_tuned.yaml")
    run_ = RunFolder.of(recipe, tmp_path)
    for content in (None, "{", "{}", '{"command": "mtc-compress run --out there"}'):
        if content:
            (tmp_path / "run.json").write_text(content)
        run_.open("mtc-compress run")
        assert run_.begun()["command"] == "mtc-compress run"


@pytest.mark.fault(
    area="offline",
    row="a compression does not keep its budget, or recovery gains nothing",
    answer="Exit code 1 for a budget (0 with --allow-missed); the better network is kept.",
    diagnostics="Warnings at the end, and a section on top of the page.",
)
@pytest.mark.usefixtures("_here")
def test_a_run_that_misses_its_budget_ends_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = read_row(Path("whole"))
    short = {"parameters": {"limit": 0.7, "achieved": 0.85, "kept": False}}
    shutil.copytree("whole", "short")
    Path("short/result.json").write_text(
        json.dumps(
            row
            | {"taken_back": "lane lost 9 points", "budget": short}
            | {"unrecovered": "recovery gained nothing: score 0.5, of the pruned network 0.5"}
        )
    )
    monkeypatch.setattr(
        "offline_compress.pipeline.pipeline.run_pipeline", lambda *_: [Path("something")]
    )
    far = ["--set", "compress.prune.budget.parameters=0.1"]
    for command, out, more, code, told in (
        ("run", "whole", [], 0, []),
        (
            "run",
            "short",
            [],
            1,
            ["parameters 0.85 instead of", "lost 9", "gained nothing"],
        ),
        ("run", "short", ["--allow-missed"], 0, ["parameters 0.85 instead of 0.7"]),
        *((part, "whole", [], 0, []) for part in ("prune", "distill", "quantize")),
        *((part, "whole", far, 1, ["instead of 0.1"]) for part in ("prune", "distill", "quantize")),
        ("prune", "whole", [*far, "--allow-missed"], 0, ["instead of 0.1"]),
    ):
        words = ["mtc-compress", command, "--recipe", "tiny.yaml", "--out", out, *more]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        errors = capsys.readouterr().err
        assert (ended.value.code, bool(errors)) == (code, bool(told))
        for one in told:
            assert one in errors


@pytest.mark.usefixtures("_here")
def test_a_terminated_command_tidies_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left: list[str] = []

    def work(*_: object) -> None:
        with TemporaryDirectory() as folder:
            left.append(folder)
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("offline_compress.pipeline.pipeline.run_pipeline", work)
    monkeypatch.setattr(sys, "argv", ["mtc-compress", "run", "--recipe", "tiny.yaml"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 143
    assert "the same command goes on" in capsys.readouterr().out
    assert not Path(left[0]).exists()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.usefixtures("_here")
def test_two_processes_do_not_share_a_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("busy").mkdir()
    other = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE)
    assert other.stdout
    other.stdout.readline()
    try:
        command = ["mtc-compress", "run", "--recipe", "tiny.yaml", "--out", "busy"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit):
            cli.main()
        assert "another process works in busy" in capsys.readouterr().err
        with pytest.raises(UserError, match="another process works in busy"):
            Trainer(load_recipe(Path("tiny.yaml")), Path("busy")).run()
    finally:
        other.kill()
        other.wait()

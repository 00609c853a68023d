"""The matrix runner: every row once, over failures and interruptions, and a report at the end."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import ablation
from bench.ablation import jobs_of, load_matrix, main
from mtc_perception.util.errors import UserError
from support.checkout import ROOT
from support.compression_rows import row
from support.tiny_training import tiny_recipe

STUB = """
import json, pathlib, shlex, sys
arguments = sys.argv[1:]
out = pathlib.Path(arguments[arguments.index("--out") + 1])
with pathlib.Path("calls").open("a") as calls:
    calls.write(out.name + "\\n")
if pathlib.Path("broken").exists() and out.name in pathlib.Path("broken").read_text():
    sys.exit("error: this row is broken")
result = json.loads(pathlib.Path("result.json").read_text())
result["command"] = shlex.join(["mtc-compress", *arguments])
result["name"], result["seed"] = out.name, int(out.name[-1])
result["settings"] = {"of": out.name.split("-")[0]}
(out / "result.json").write_text(json.dumps(result))
"""
"""In place of `mtc-compress`: writes a result, or fails."""


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablation, "LOOK_EVERY_S", 0.02)
    recipe = json.loads(tiny_recipe(Path("roads")).model_dump_json())
    recipe["compress"] = {
        "prune": {"budget": {"parameters": 0.5}},
        "recover": {"schedule": recipe["schedule"]},
    }
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    Path("stub.py").write_text(STUB)
    Path("result.json").write_text(json.dumps(row("x")))
    return {
        "name": "m",
        "recipe": "tiny.yaml",
        "set": {"compress.prune.steps": 2},
        "seeds": [0, 1],
        "rows": [
            {"name": "a", "set": {"compress.prune.budget": {"latency": 0.5}}},
            {"name": "b", "seeds": [7], "set": {"compress.prune.criterion": "l2"}},
        ],
    }


def run(matrix: dict[str, Any]) -> int:
    Path("m.yaml").write_text(yaml.safe_dump(matrix))
    return main(["m.yaml"], program=[sys.executable, "stub.py"])


def calls() -> list[str]:
    return Path("calls").read_text().split()


def test_every_row_and_seed_is_run(matrix: dict[str, Any]) -> None:
    """Every time: the runs themselves know what is left to do, e.g. with another teacher."""
    assert run(matrix) == 0
    assert calls() == ["a-s0", "a-s1", "b-s7"]
    assert run(matrix) == 0
    assert calls() == ["a-s0", "a-s1", "b-s7"] * 2
    command = json.loads(Path("runs/ablation/m/b-s7/result.json").read_text())["command"]
    assert shlex.split(command) == [
        *("mtc-compress", "run", "--redo", "--allow-missed", "--recipe", "tiny.yaml"),
        *("--set", "compress.prune.steps=2", "--set", "compress.prune.criterion=l2"),
        *("--set", "compress.seed=7", "--out", "runs/ablation/m/b-s7"),
    ]
    assert command in Path("out/ablation/m.html").read_text()


def test_a_failed_row_is_told_and_the_others_go_on(
    matrix: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken").write_text("a-s1")
    assert run(matrix) == 1
    assert calls() == ["a-s0", "a-s1", "b-s7"]
    told = capsys.readouterr().err
    assert "failed: a-s1: exit code 1: error: this row is broken" in told
    # What it had once finished does not count.
    page = Path("out/ablation/m.html")
    assert "a-s0" in page.read_text()
    Path("broken").write_text("a-s0 a-s1")
    assert run(matrix) == 1
    assert "a-s0" not in page.read_text()
    assert "b-s7" in page.read_text()
    Path("broken").unlink()
    assert run(matrix) == 0


def test_the_table_is_written_where_it_is_wanted(matrix: dict[str, Any]) -> None:
    Path("m.yaml").write_text(yaml.safe_dump(matrix))
    stub = [sys.executable, "stub.py"]
    assert main(["m.yaml", "--json", "new/table.json"], program=stub) == 0
    assert json.loads(Path("new/table.json").read_text())["schema"] == 4


def test_mistakes_are_told_before_anything_runs(
    matrix: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    matrix["rows"][1]["set"]["compress.prune.criterium"] = "l2"
    assert run(matrix) == 2
    assert "did you mean criterion?" in capsys.readouterr().err
    del matrix["rows"][1]["set"]["compress.prune.criterium"]
    matrix["rows"][1]["name"] = "a"
    assert run(matrix) == 2
    assert "two rows have the name a" in capsys.readouterr().err
    matrix["rows"][1] |= {"name": "b", "set": matrix["rows"][0]["set"], "seeds": [1]}
    assert run(matrix) == 2
    assert "b-s1 is the same run as a-s1" in capsys.readouterr().err
    matrix["rowes"] = 1
    assert run(matrix) == 2
    assert "rowes" in capsys.readouterr().err
    assert not Path("calls").exists()


def test_an_unreadable_matrix_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_matrix(tmp_path / "m.yaml")
    (tmp_path / "m.yaml").write_text("a: [")
    with pytest.raises(UserError, match="is no YAML"):
        load_matrix(tmp_path / "m.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "ablations").glob("*.yaml")))
def test_matrices_in_the_repository_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    matrix = load_matrix(path)
    assert matrix.name == path.stem
    jobs = jobs_of(matrix)
    assert len({job.folder for job in jobs}) == len(jobs)

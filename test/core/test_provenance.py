"""Where a number came from, as every result file says it."""

import subprocess
import sys
from pathlib import Path

import pytest

from mtc_perception.util.provenance import provenance
from support.checkout import ROOT


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
def test_the_commit_is_that_of_the_checkout() -> None:
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    commit = provenance()["commit"]
    assert commit is not None
    assert commit.removesuffix("+changes") == head


def test_a_module_is_named_as_it_was_run(tmp_path: Path) -> None:
    (tmp_path / "measure.py").write_text(
        "from mtc_perception.util.provenance import provenance\nprint(provenance()['command'])\n"
    )
    for program, named in (
        (["-m", "measure"], "python -m measure"),
        (["measure.py"], "measure.py"),
    ):
        done = subprocess.run(
            [sys.executable, *program, "--images", "3"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert done.stdout == f"{named} --images 3\n"

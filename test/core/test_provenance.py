"""Where a number came from, as every result file says it."""

import subprocess

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

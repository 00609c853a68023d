"""Scoring by two processes, which talk over gloo, against scoring by one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from offline_compress.importance import load
from support import scoring_rig
from support.clean_process import TIMEOUT_S
from support.tiny_training import LAUNCH

pytestmark = pytest.mark.slow


def test_two_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    alone.mkdir()
    launch = ("accelerate.commands.launch", *LAUNCH, "--num_processes", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", *launch, "--main_process_port", "0", scoring_rig.__file__, together],
        stderr=subprocess.PIPE,
        text=True,
    )
    monkeypatch.setattr(sys, "argv", ["scoring_rig.py", str(alone)])
    scoring_rig.main()
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    for name in ("conv", "query"):
        one, first, second = (
            load(path)
            for path in (alone / f"{name}0", together / f"{name}0", together / f"{name}1")
        )
        assert (first.images, first.batches) == (one.images, one.batches) == (6, 3)
        assert first.labelled == one.labelled
        for kind in ("taylor", "joint", "conflict"):
            for group, values in getattr(one, kind).items():
                found = getattr(first, kind)[group]
                assert np.array_equal(found, getattr(second, kind)[group])
                np.testing.assert_allclose(found, values, rtol=1e-12, atol=0)

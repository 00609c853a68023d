"""`python -m bench.kills` in short: commands killed a few times, and the same as undisturbed.

Training is killed in test_train_processes.py, pruning and quantising in test_pipeline.py.
"""

from typing import get_args

import pytest

from bench import kills
from mtc_perception.core.bundle import EngineName
from mtc_perception.engines.tensorrt.library import installed_flavours
from support.toy_bundle import write_toy_bundle

NAMES = ("replay", "build")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> kills.Kills:
    folder = tmp_path_factory.mktemp("kills")
    bundle = write_toy_bundle(folder / "toy.mtc", engines=get_args(EngineName))
    found = kills.Kills(folder, 3, bundle)
    found.prepare(NAMES)
    return found


@pytest.mark.fault(
    area="offline",
    row="training, pruning, quantising, a replay or an engine build is killed (-9) at any moment",
    answer="The same command goes on and ends with the result of an undisturbed one, to the bit.",
    diagnostics="Nothing; `python -m bench.kills` does it a hundred times, see results/kills.json.",
)
@pytest.mark.parametrize("name", NAMES)
def test_a_killed_command_ends_as_an_undisturbed_one(trials: kills.Kills, name: str) -> None:
    if name == "build" and "tensorrt_rtx" not in installed_flavours():
        pytest.skip("tensorrt_rtx is not installed")
    trial = trials.trial(name, 0)
    assert trial["equal"]
    assert trial["kills"] > 0

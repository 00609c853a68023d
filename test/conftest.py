import importlib.util
import multiprocessing
import os
import re
import signal
import tempfile
from pathlib import Path

import hypothesis
import pytest

from mtc_perception.replay.live.domain import ClaimedDomain
from support.toy_bundle import write_toy_bundle

# How long an example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")
# Each run talks in a domain of its own and stays on this machine, whatever else runs here.
_domain = ClaimedDomain()  # until the end of the process
os.environ["ROS_DOMAIN_ID"] = str(_domain.number)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# A run in the background of a script ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Programs that tests start find `support`, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)
# What engines somebody has built on this machine is none of the tests' business.
os.environ["MTC_ENGINE_CACHE"] = str(Path(tempfile.gettempdir()) / f"mtc_no_engines_{os.getpid()}")


_IMPORT = re.compile(r"^(?:from|import) (?:support(?:\.| import ))?(\w+)", re.MULTILINE)


def _needing_torch() -> list[str]:
    """Paths of modules here that import torch, the offline package, or another one that does."""
    folder = Path(__file__).parent
    paths = list(folder.rglob("*.py"))
    imported = {path.stem: set(_IMPORT.findall(path.read_text())) for path in paths}
    needing = {"torch", "offline_compress"}
    while more := {name for name, others in imported.items() if others & needing} - needing:
        needing |= more
    return [str(path.relative_to(folder)) for path in paths if path.stem in needing]


# A vehicle has no torch (colcon test): the offline package is tested where networks are made.
collect_ignore = [] if importlib.util.find_spec("torch") else _needing_torch()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that a test leaves behind fails the run: Python would wait for it at its end."""
    if left := multiprocessing.active_children():
        print(f"\nerror: tests left processes behind: {left}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        for process in left:
            process.kill()


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the toy bundle (see toy_bundle.py): input 160 x 96, answers known by hand."""
    return write_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy.mtc")

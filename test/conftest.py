"""What every test of this project runs in: a home, a ROS domain and processes of its own."""

import importlib.util
import multiprocessing
import os
import re
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from mtc_perception.util.ros_domain import ClaimedDomain
from support.gpu import missing_gpu
from support.toy_bundle import write_toy_bundle

# How long an example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")
# A run in the background of a script ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Each process that runs tests talks in a domain of its own and stays on this machine, whatever
# else runs here.
_domain = ClaimedDomain()  # until the end of the process
os.environ["ROS_DOMAIN_ID"] = str(_domain.number)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# Tensors of tests gain nothing from threads, which wait for each other on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"
# Programs that tests start find `support`, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)
if "PYTEST_XDIST_WORKER" not in os.environ:
    # Logs, caches, what killed processes leave: all of it goes when the run ends, and neither what
    # this machine's user has set up nor another run has a say. pytest keeps its own folders.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    _home = tempfile.TemporaryDirectory(prefix="mtc_", ignore_cleanup_errors=True)
    os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = _home.name
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MTC_ENGINE_CACHE"):
        os.environ.pop(name, None)


_IMPORT = re.compile(r"^(?:from|import) (?:support(?:\.| import ))?(\w+)", re.MULTILINE)


def _needing_torch() -> list[str]:
    """Paths of modules here that import torch, the offline package, or another one that does."""
    folder = Path(__file__).parent
    paths = [path for path in folder.rglob("*.py") if path.name != "conftest.py"]
    imported = {path.stem: set(_IMPORT.findall(path.read_text())) for path in paths}
    needing = {"torch", "offline_compress"}
    while more := {name for name, others in imported.items() if others & needing} - needing:
        needing |= more
    return [str(path.relative_to(folder)) for path in paths if path.stem in needing]


# A vehicle has no torch (colcon test): the offline package is tested where networks are made.
collect_ignore = [] if importlib.util.find_spec("torch") else ["offline", *_needing_torch()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with much to do come first, so that none of them is waited for at the end."""
    slow, dds = (
        Counter(item.path for item in items if item.get_closest_marker(name))
        for name in ("slow", "dds")
    )
    items.sort(key=lambda item: (-slow[item.path], -dds[item.path]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and (why := missing_gpu()):
        pytest.skip(why)


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """A process that a test leaves behind fails the run: Python would wait for it at its end."""
    yield
    left = multiprocessing.active_children()
    for process in left:
        process.kill()
    assert not left


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the toy bundle (see toy_bundle.py): input 160 x 96, answers known by hand."""
    return write_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy.mtc")

"""A colcon workspace with a copy of this package, built as on a vehicle."""

import os
import shutil
import subprocess
from pathlib import Path

from support.checkout import ROOT

NOT_SOURCES = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "install", "log", "out", "runs"
)


def run(*command: str, cwd: Path = ROOT, timeout_s: float = 90) -> str:
    """stdout of `command`; an exit code other than 0 fails with its whole output."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copy_checkout(folder: Path) -> None:
    """The sources of this checkout, and nothing that was made from them."""
    shutil.copytree(ROOT, folder, ignore=NOT_SOURCES)


def build_workspace(folder: Path) -> Path:
    """Build a copy of the checkout in `folder` with colcon; the install prefix of the package."""
    copy_checkout(folder / "src" / "mtc_perception")
    run("colcon", "build", cwd=folder)
    return folder / "install" / "mtc_perception"


def sourced(folder: Path) -> dict[str, str]:
    """The environment after sourcing the workspace's setup.bash, this checkout out of reach."""
    env = {**os.environ, "PYTHONPATH": outside_checkout(os.environ.get("PYTHONPATH", ""))}
    script = f"source {folder}/install/setup.bash && env -0"
    lines = subprocess.run(
        ["bash", "-c", script], env=env, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return dict(line.split("=", 1) for line in lines.split("\0") if line)


def outside_checkout(path: str) -> str:
    """`path` without the checkout's root, so that the workspace's own copy is imported."""
    parts = [part for part in path.split(os.pathsep) if part]
    return os.pathsep.join(part for part in parts if Path(part).resolve() != ROOT)

"""Where a number came from: machine, versions, commit and command, for every result file."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "openvino",
    "onnx",
    "onnxruntime",
    "nncf",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
)


def provenance() -> dict[str, Any]:
    """Machine, package versions, commit (None outside a checkout), command and UTC time."""
    return {
        "machine": {
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(_memory_bytes() / 2**30, 1),
            "system": platform.system(),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
        "command": command_line([*_program(), *sys.argv[1:]]),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _program() -> list[str]:
    """How this program was started: by its name, or as a module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return [Path(sys.argv[0]).name]
    return ["python", "-m", spec.name.removesuffix(".__main__")]


def command_line(words: Sequence[str]) -> str:
    """Words as a shell takes them; paths below the working directory relative to it, also in
    FIELD=PATH."""
    return shlex.join(map(_portable, words))


def portable(path: Path) -> str:
    """A path relative to the working directory if it lies below that, else whole."""
    return _portable(str(path.absolute()))


def _portable(word: str) -> str:
    name, equals, value = word.rpartition("=")
    path, here = Path(value), Path.cwd()
    if not path.is_absolute() or not path.is_relative_to(here):
        return word
    return f"{name}{equals}{path.relative_to(here)}"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Commit of the checkout this package runs from, with `+changes` where it was edited."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()

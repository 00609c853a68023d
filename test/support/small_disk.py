"""Commands on a disk that is nearly full: a file system of their own in a user namespace."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from support.clean_process import Program

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
NO_MOUNT = 99
"""Exit code where no file system may be mounted."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended on the small disk."""

    code: int
    output: str
    errors: str
    disk: Path
    """A copy of what was on the disk then."""

    def parts(self) -> list[str]:
        """Names of files that were begun and not finished."""
        names = (str(path.relative_to(self.disk)) for path in self.disk.rglob(".*"))
        return sorted(name for name in names if not name.endswith(".lock"))


def on_small_disk(disk: Path, free_kib: int, command: Sequence[object]) -> Ended:
    """Run `python COMMAND` in folder `disk`, on which only so much is free; it stays as it is.

    Skips the test where no file system may be mounted.
    """
    after = disk.with_name(f"{disk.name}.after")
    shutil.rmtree(after, ignore_errors=True)
    code, output, errors = Program(command, partial(_small, disk, after, free_kib)).finish()
    if code == NO_MOUNT:
        pytest.skip("no file system may be mounted here")
    return Ended(code, output, errors, after)


@contextlib.contextmanager
def _small(disk: Path, after: Path, free_kib: int) -> Iterator[None]:
    """A file system with so much room on top of `disk`; its content is in `after` in the end."""
    shutil.copytree(disk, after, symlinks=True)
    mounted(disk, "256m")
    shutil.copytree(after, disk, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(after)
    filler = disk / ".filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - free_kib * 1024)
    os.chdir(disk)
    try:
        yield
    finally:
        filler.unlink()
        shutil.copytree(disk, after, symlinks=True)


def mounted(folder: Path, size: str) -> None:
    """Lay an empty file system of that size over a folder, for this process alone.

    Ends the process with exit code `NO_MOUNT` where that may not be.
    """
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        sys.exit(NO_MOUNT)
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        Path("/proc/self", name).write_text(content)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(words, check=False).returncode:
        sys.exit(NO_MOUNT)

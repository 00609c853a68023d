"""Commands on a disk that is nearly full: a file system of their own in a user namespace."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.checkout import ROOT

_SCRIPT = """
disk=$1 after=$2 free_kib=$3; shift 3
cp -a "$disk/." "$after.before" && mount -t tmpfs -o size=256m none "$disk" || exit 99
cp -a "$after.before/." "$disk"
left=$(df --output=avail -k "$disk" | tail -1)
head -c $(( (left - free_kib) * 1024 )) /dev/zero > "$disk/.filler" || exit 99
cd "$disk" && "$@"
code=$?
rm "$disk/.filler"; cp -a "$disk/." "$after"
exit $code
"""


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
    for folder in (after, after.with_name(f"{after.name}.before")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    words = [*map(str, (disk, after, free_kib)), sys.executable, *map(str, command)]
    done = subprocess.run(
        ["unshare", "-Urm", "bash", "-c", _SCRIPT, "bash", *words],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip("no file system may be mounted here")
    return Ended(done.returncode, done.stdout, done.stderr, after)

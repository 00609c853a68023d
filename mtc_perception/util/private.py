"""Folders that nobody else may put anything into, since what lies in them is run or believed; and
the user's cache, where they are.
"""

import os
import shlex
from pathlib import Path

_OTHERS_MAY_WRITE = 0o022


def cache_folder() -> Path | None:
    """What this package keeps for its user; None for a user without a home folder."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "mtc_perception"
    try:
        return Path.home() / ".cache" / "mtc_perception"
    except RuntimeError:
        return None


def make_private(folder: Path) -> None:
    """Make a folder for this user alone, if there is none. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def why_not_private(path: Path) -> str:
    """Who, beside this user and root, may change what is at `path`; "" if nobody may.

    Raises OSError where nothing can be said, since there is nothing.
    """
    found = path.stat()
    if found.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to another user (number {found.st_uid})"
    if found.st_mode & _OTHERS_MAY_WRITE:
        return f"other users may change {path}: chmod go-w {shlex.quote(str(path))}"
    return ""

"""One process at a time in the folder of a run."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtc_perception.util.errors import UserError

LOCK_FILE = ".lock"


@contextmanager
def held(folder: Path, main: bool = True) -> Iterator[None]:
    """Hold the folder of a run, which is made if need be, in the main one of the run's processes.

    Raises UserError if another run does.
    """
    if not main:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("w") as file:
        try:
            # Of this process alone: the workers that it forks may outlive it for seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(f"another process works in {folder}; give another --out") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise  # file systems of clusters may have no locks: there, runs are on their own
        yield

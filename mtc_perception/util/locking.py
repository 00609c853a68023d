"""One process at a time in the folder of a run."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from mtc_perception.util.errors import UserError

LOCK_FILE = ".lock"


@contextmanager
def held(folder: Path, main: bool = True, *, of: Path | None = None) -> Iterator[None]:
    """Hold the folder of a run, which is made if need be, in the main one of the run's processes.

    Raises UserError, which names that process and `of` (default: the folder), if another run does.
    """
    if not main:
        yield
        return
    with _opened(folder, of or folder) as file:
        with suppress(OSError):  # on a full disk, whoever comes now is not told who is here
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()}".encode())
        yield


@contextmanager
def _opened(folder: Path, of: Path) -> Iterator[FileIO]:
    """The lock of a folder, open and locked."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK_FILE).open("ab+", buffering=0) as file:
            try:
                # Of this process alone: the workers that it forks may outlive it for seconds.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                who = (file.read(200) or b"").decode(errors="replace").strip() or "unknown"
                raise UserError(
                    f"another process works in {of} ({who}); wait for it or give another --out"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                # File systems of clusters may have no locks: there, runs are on their own.
            if not _is_at(file, folder / LOCK_FILE):
                continue  # removed, with its folder, by who had it before
            yield file
            return


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False

"""Files and folders that are either complete or not there, and replace others in one step; and how
foreign ones are opened.
"""

import ctypes
import errno
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mtc_perception.util.errors import UserError
from mtc_perception.util.locking import held

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fs.h


def write_text_atomic(
    path: Path, text: str, *, durable: bool = False, private: bool = False
) -> Path:
    """Replace `path`, in a folder that exists, by `text` as UTF-8. Returns `path`."""
    return write_bytes_atomic(path, text.encode(), durable=durable, private=private)


def write_bytes_atomic(
    path: Path, data: bytes, *, durable: bool = False, private: bool = False
) -> Path:
    """Replace `path`, in a folder that exists, by `data`. Returns `path`.

    `durable` waits for the disk: for what must still be there after the power was cut. Notes and
    pictures, written many times a second, do not wait. `private`: only this user may read it.
    """
    mode = 0o600 if private else 0o666  # less what the user's mask takes
    with replacing(path, durable=durable) as temporary:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            file.write(data)
    return path


@contextmanager
def replacing(path: Path, *, durable: bool = False, alone: bool = False) -> Iterator[Path]:
    """A path beside `path` to write a file to, which takes its place when all went well.

    Else nothing is left of it. `durable` as in `write_bytes_atomic`; `alone`: no other process
    writes it meanwhile, and what a killed one has left is written over. A disk error names `path`.
    """
    # Nobody can lay a link in the way of a name that is not known before.
    temporary = path.with_name(f".{path.name}.{'part' if alone else secrets.token_hex(8)}")
    try:
        with disk_errors_name(path):
            yield temporary
            if durable:
                sync(temporary)
            os.replace(temporary, path)
            if durable:
                sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A path, at which nothing is, to make a folder at; it takes the place of `path` at the end.

    Until then `path` stays as it is, and if anything goes wrong nothing is left of the new one.
    The path has the name of `path`. Raises UserError if another process makes this folder. A disk
    error that names no file names `path`.
    """
    with making(path) as work, disk_errors_name(path):
        new = work / path.name
        shutil.rmtree(new, ignore_errors=True)  # of a killed process
        yield new
        put_in_place(new, path)


@contextmanager
def making(path: Path) -> Iterator[Path]:
    """Hold what is to come to `path`: a folder beside it for the meantime.

    Raises UserError if another process holds it.
    """
    restore_folder(path)
    work = _work_folder(path)
    with held(work, of=path):
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def put_in_place(new: Path, path: Path) -> None:
    """Make the folder `new` the one at `path`, in one step; what was there is then removed.

    Within `making(path)`.
    """
    sync(new)
    if not path.exists():
        os.replace(new, path)
    elif _exchanged(new, path):
        shutil.rmtree(new, ignore_errors=True)
    else:
        # For a moment there is none: `restore_folder` mends it if that is this process's last.
        former = _former(path)
        shutil.rmtree(former, ignore_errors=True)  # of a process killed after the second rename
        try:
            os.replace(path, former)
            os.replace(new, path)
        except BaseException:  # Ctrl-C too
            if not path.exists():
                os.replace(former, path)
            raise
    sync(path.parent)


def restore_folder(path: Path) -> None:
    """Bring back what was at `path` if a process was killed while it replaced that."""
    former = _former(path)
    if former.exists() and not path.exists():
        with suppress(UserError), held(former.parent):
            os.replace(former, path)


def _work_folder(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _former(path: Path) -> Path:
    return _work_folder(path) / ".former"


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two paths have changed places in one step, which not every file system can do."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # not glibc, or an old one
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


@contextmanager
def disk_errors_name(path: Path) -> Iterator[None]:
    """A full disk met while `path` is written is an OSError that says so.

    Writing to an open file, the system names none; and libraries raise errors of their own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        met: BaseException | None = error
        while met is not None and getattr(met, "errno", None) not in _DISK_ERRORS:
            met = met.__cause__ or met.__context__
        if not isinstance(met, OSError) or met.filename is not None:
            raise
        raise OSError(met.errno, met.strerror, str(path)) from error


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk.

    File systems write both in an order of their own: a new name may outlive a power cut without
    its content. So sync a file before it is renamed, and its folder afterwards.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some file systems cannot do it for folders, whose names then come when they come.
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def read_regular(path: Path) -> bytes:
    """The content of a regular file. Raises OSError as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises OSError; also for what would keep its reader waiting, or act on being opened: a FIFO, a
    device.
    """
    # Looked at before and after, since what lies there may be exchanged in between.
    if stat.S_ISREG(os.stat(path).st_mode):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return io.BufferedReader(io.FileIO(descriptor))
        os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", str(path))

"""Files that are either complete or not there."""

import os
from pathlib import Path


def write_text_atomic(path: Path, text: str, *, durable: bool = False) -> Path:
    """Replace `path`, in a folder that exists, by `text` as UTF-8. Returns `path`."""
    return write_bytes_atomic(path, text.encode(), durable=durable)


def write_bytes_atomic(path: Path, data: bytes, *, durable: bool = False) -> Path:
    """Replace `path`, in a folder that exists, by `data`. Returns `path`.

    `durable` waits for the disk: for what must still be there after the power was cut. Notes and
    pictures, written many times a second, do not wait.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return path


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

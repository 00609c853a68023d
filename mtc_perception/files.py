"""Files that are either complete or not there."""

import os
from pathlib import Path


def write_text_atomic(path: Path, text: str) -> Path:
    """Replace `path`, in a folder that exists, by `text` as UTF-8. Returns `path`."""
    return write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: Path, data: bytes) -> Path:
    """Replace `path`, in a folder that exists, by `data`. Returns `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path

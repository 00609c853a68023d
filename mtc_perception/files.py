"""Files that are either complete or not there."""

import os
from pathlib import Path


def write_text_atomic(path: Path, text: str) -> Path:
    """Replace `path`, in a folder that exists, by `text` as UTF-8. Returns `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path

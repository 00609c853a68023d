"""How the command-line programs end."""

import errno
import inspect
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import typer

from mtc_perception.util.errors import UserError, printable

LAUNCHERS_FILE = "TORCHELASTIC_ERROR_FILE"
"""Names the file in which torchrun looks for why a process failed."""


def run_app(app: Callable[[], object], extra: str = "") -> None:
    """Run a Typer app as the entry point of a program.

    What the user can mend becomes one line on stderr and exit code 2: also a library that is not
    installed, which `extra` of this package (see setup.py) brings. Typer itself makes exit code
    130 of Ctrl-C.
    """
    if isinstance(app, typer.Typer):
        _fill_help(app)
    try:
        app()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("mtc_perception.", "offline_compress.")):
            raise  # a mistake of ours
        package = f"mtc_perception[{extra}]" if extra else "mtc_perception"
        _tell(f"error: {error.name} is not installed: pip install '{package}'")
        raise SystemExit(2) from None
    except (UserError, OSError) as error:
        # A full disk, a folder without permission: nothing that a traceback would explain better.
        _tell(f"error: {_words(error)}")
        raise SystemExit(2) from None


def _fill_help(app: typer.Typer) -> None:
    """Typer keeps the line ends of docstrings, which stand anywhere in a narrower terminal."""
    for command in app.registered_commands:
        paragraphs = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for group in app.registered_groups:
        if group.typer_instance:
            _fill_help(group.typer_instance)


def _tell(line: str) -> None:
    """On stderr and to a launcher of several processes, which ends with a report of its own."""
    print(line, file=sys.stderr)
    if file := os.environ.get(LAUNCHERS_FILE):
        about = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        with suppress(OSError):
            Path(file).write_text(json.dumps({"message": about}))


def _words(error: UserError | OSError) -> str:
    """The error in one line, with what to do about a full disk."""
    if isinstance(error, UserError):
        return str(error)
    if error.filename is None or error.strerror is None:
        return printable(str(error))
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "; free some space and give the same command again" if full else ""
    return printable(f"{error.filename}: {error.strerror}{advice}")

"""How the command-line programs end."""

import sys
from collections.abc import Callable

from mtc_perception.util.errors import UserError


def run_app(app: Callable[[], object]) -> None:
    """Run a Typer app as the entry point of a program.

    What the user can mend becomes one line on stderr and exit code 2. Typer itself makes exit code
    130 of Ctrl-C.
    """
    try:
        app()
    except (UserError, OSError) as error:
        # A full disk, a folder without permission: nothing that a traceback would explain better.
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None

"""How the command-line programs end."""

import sys
from collections.abc import Callable

from mtc_perception.util.errors import UserError


def run_app(app: Callable[[], object], extra: str = "") -> None:
    """Run a Typer app as the entry point of a program.

    What the user can mend becomes one line on stderr and exit code 2: also a library that is not
    installed, which `extra` of this package (see setup.py) brings. Typer itself makes exit code
    130 of Ctrl-C.
    """
    try:
        app()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("mtc_perception.", "offline_compress.")):
            raise  # a mistake of ours
        package = f"mtc_perception[{extra}]" if extra else "mtc_perception"
        print(f"error: {error.name} is not installed: pip install '{package}'", file=sys.stderr)
        raise SystemExit(2) from None
    except (UserError, OSError) as error:
        # A full disk, a folder without permission: nothing that a traceback would explain better.
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None

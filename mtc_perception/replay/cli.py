"""`mtc-replay`: recordings through a bundle, scored, checked against limits, and compared."""

import sys

import typer

from mtc_perception.errors import UserError
from mtc_perception.replay.commands.compare import compare
from mtc_perception.replay.commands.evaluate import evaluate
from mtc_perception.replay.commands.files import bag, report
from mtc_perception.replay.interrupts import handle_interrupts

app = typer.Typer(
    name="mtc-replay",
    help="Replay recordings through a bundle: is it right, is it fast enough, what changed?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.command()(evaluate)
app.command()(compare)
app.command()(report)
app.command()(bag)


def main() -> None:
    """Console entry point: user mistakes become one line on stderr and exit code 2."""
    handle_interrupts()
    try:
        app()
    except (UserError, OSError) as error:
        # A full disk, a folder without permission: nothing that a traceback would explain better.
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()

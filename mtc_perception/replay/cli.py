"""`mtc-replay`: recordings through a bundle, scored, checked against limits, and compared."""

import typer

from mtc_perception.replay.commands.compare import compare
from mtc_perception.replay.commands.demo import demo
from mtc_perception.replay.commands.evaluate import evaluate
from mtc_perception.replay.commands.files import bag, report
from mtc_perception.util.command_line import run_app
from mtc_perception.util.interrupts import handle_interrupts

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
app.command()(demo)


def main() -> None:
    """Console entry point."""
    handle_interrupts()
    run_app(app)


if __name__ == "__main__":
    main()

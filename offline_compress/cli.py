"""`mtc-compress`: the offline commands. Each command only parses and prints; work lives beside."""

import sys

import typer

from mtc_perception.errors import UserError

app = typer.Typer(
    name="mtc-compress",
    help="Train, evaluate, compress and export multi-task perception networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def _commands() -> None:
    """Keep `mtc-compress COMMAND` the form even while there is a single command."""


def main() -> None:
    """Console entry point: user mistakes become one line on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()

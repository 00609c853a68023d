"""`mtc-compress`: the offline commands."""

import typer

from mtc_perception.util.command_line import run_app
from offline_compress.commands.assess import assess
from offline_compress.commands.check_data import check_data
from offline_compress.commands.compare import compare
from offline_compress.commands.compress import distill, prune, quantize, report, run
from offline_compress.commands.convert import convert
from offline_compress.commands.evaluate import evaluate
from offline_compress.commands.export import export
from offline_compress.commands.sign import sign
from offline_compress.commands.study import study
from offline_compress.commands.synth import synth_app
from offline_compress.commands.train import train
from offline_compress.commands.wrap import wrap

app = typer.Typer(
    name="mtc-compress",
    help="Train, evaluate, compress and export multi-task perception networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(synth_app, name="synth")
# The help lists them in this order.
for command in (
    convert,
    check_data,
    run,
    prune,
    distill,
    quantize,
    report,
    study,
    train,
    evaluate,
    compare,
    export,
    wrap,
    assess,
    sign,
):
    app.command()(command)


def main() -> None:
    """Console entry point."""
    run_app(app, extra="offline")


if __name__ == "__main__":
    main()

"""`mtc-engine`: build, list, inspect, measure and clean up TensorRT engines; verify bundles."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mtc_perception.util.command_line import run_app
from mtc_perception.util.errors import BundleError, EngineError, UserError

app = typer.Typer(
    name="mtc-engine",
    help="Build, inspect and measure TensorRT engines for bundles; verify bundles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

BundlePath = Annotated[Path, typer.Argument(help="Bundle: NAME.mtc, or the same zipped.")]
Store = Annotated[
    Path | None,
    typer.Option(
        envvar="MTC_ENGINE_CACHE",
        help="Folder of the built engines; default: ~/.cache/mtc_perception/engines.",
    ),
]


@app.command()
def build(
    bundle: BundlePath,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="fp32, fp16 or int8; may be repeated. Default: all for TensorRT."),
    ] = None,
    flavour: Annotated[
        Literal["tensorrt", "rtx"] | None,
        typer.Option(help="Which TensorRT; default: the installed one, tensorrt before rtx."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="current (this machine's GPU, the default), or for rtx without such a GPU: sm75, "
            "sm80, sm86, sm89, sm120, sm121; repeated: one engine for all of them."
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            min=1, help="Images at a time, if the graph leaves it open; the node takes 1."
        ),
    ] = 1,
    workspace_mib: Annotated[
        int | None, typer.Option(min=1, help="Most GPU scratch memory of a layer; default: all.")
    ] = None,
    store: Store = None,
) -> None:
    """Build the engines of a bundle, each in a process of its own.

    A network's precision is its own, so there is one engine per variant. Interrupted, a build
    leaves nothing behind.

    On the vehicle: [bold]mtc-engine build models/mtc_nano.mtc[/bold]

    Anywhere: [bold]mtc-engine build models/mtc_nano.mtc --flavour rtx --target sm89[/bold]
    """
    from mtc_perception.commands.engine_report import build_progress, built_line
    from mtc_perception.core.bundle import read_bundle
    from mtc_perception.engines.tensorrt.build import (
        CURRENT,
        BuildSettings,
        build_variant,
        check_available,
        default_flavour,
        fitting_variants,
    )
    from mtc_perception.engines.tensorrt.key import FLAVOUR_OPTIONS
    from mtc_perception.engines.tensorrt.store import EngineStore

    engines = EngineStore(store)
    targets = tuple(target or (CURRENT,))
    named = next((key for key, name in FLAVOUR_OPTIONS.items() if name == flavour), None)
    settings = BuildSettings(
        flavour=named or default_flavour(targets),
        targets=targets,
        batch=batch,
        workspace_mib=workspace_mib,
        timings=engines.root,
    )
    check_available(settings)
    found = read_bundle(bundle)
    variants = fitting_variants(found, precision or ())
    refusals: list[str] = []
    for variant in variants:
        try:
            with build_progress(variant) as tell:
                built, path = build_variant(found, variant, settings, engines, tell)
        except (BundleError, EngineError) as error:
            refusals.append(str(error))
            continue
        print(built_line(variant, built, path))
    if refusals:
        some = f"{len(refusals)} of {len(variants)} variants not built: " if variants[1:] else ""
        raise EngineError(some + "; ".join(dict.fromkeys(refusals)))


@app.command("list")
def list_engines(store: Store = None) -> None:
    """List the built engines, and which of them fit this machine.

    Example: [bold]mtc-engine list --store /media/stick/engines[/bold]
    """
    from rich.console import Console

    from mtc_perception.commands.engine_report import engines_table
    from mtc_perception.engines.tensorrt.machine import this_machine
    from mtc_perception.engines.tensorrt.store import EngineStore

    engines = EngineStore(store)
    entries = engines.entries()
    if entries:
        Console().print(engines_table(entries, this_machine()))
    else:
        print(f"no engines in {engines.root}")
    if outdated := engines.outdated():
        print(f"{len(outdated)} of older versions, or damaged: mtc-engine clean removes them")


@app.command()
def inspect(
    engine: Annotated[str, typer.Argument(help="Engine as `list` names it, or its file.")],
    store: Store = None,
) -> None:
    """Show what an engine is, was made from, and (on a GPU) which precision its layers run in.

    Example: [bold]mtc-engine inspect 3f2a91c0[/bold]
    """
    from rich.console import Console

    from mtc_perception.commands.engine_report import engine_tables, named
    from mtc_perception.engines.tensorrt.inspect import layer_precisions
    from mtc_perception.engines.tensorrt.store import EngineStore

    engines = EngineStore(store)
    entry = named(engines.entries(), engine)
    content = engines.read(entry)
    layers: dict[str, int] | str
    try:
        layers = layer_precisions(content, entry.key.flavour)
    except EngineError as error:  # the rest is known without a GPU
        layers = str(error)
    for part in engine_tables(entry, layers):
        Console().print(part)


@app.command()
def bench(
    bundle: BundlePath,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 or int8; default: the fastest within tolerance.")
    ] = None,
    runs: Annotated[int, typer.Option(min=20, help="Camera images that are measured.")] = 500,
) -> None:
    """Measure a built engine on this machine's GPU: latency, throughput, what the host adds.

    Example: [bold]mtc-engine bench models/mtc_nano.mtc --precision fp16[/bold]
    """
    from rich.console import Console

    from mtc_perception.commands.engine_bench import measure
    from mtc_perception.commands.engine_report import bench_table
    from mtc_perception.core.bundle import read_bundle
    from mtc_perception.util.progress import Progress

    with Progress() as progress:
        found = measure(read_bundle(bundle), precision, runs, progress.counter("measuring"))
    Console().print(bench_table(found))


@app.command()
def verify(
    bundle: BundlePath,
    trusted: Annotated[
        list[Path], typer.Option(help="Public key, PEM; may be repeated: one of them must fit.")
    ],
) -> None:
    """Check that a bundle is whole and signed by a trusted key (`mtc-compress sign`).

    The node does the same with its parameter trusted_keys.

    Example: [bold]mtc-engine verify models/mtc_nano.mtc --trusted KEY.pub[/bold]
    """
    from mtc_perception.core.bundle import read_bundle, signer_of

    manifest = read_bundle(bundle, trusted).manifest
    print(f"{bundle}: {manifest.name} {manifest.version}, signed by {signer_of(bundle, trusted)}")


@app.command()
def clean(
    engine: Annotated[
        list[str] | None,
        typer.Argument(help="Engines as `list` names them, or their files; default: see above."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Remove all that are stored.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: Store = None,
) -> None:
    """Remove the engines that cannot run here: for another GPU, or of another TensorRT version.

    Those that an older mtc_perception has stored go as well, since this one cannot read them.
    Named ones go alone.

    Examples: [bold]mtc-engine clean --yes[/bold], [bold]mtc-engine clean 3f2a91c0[/bold]
    """
    from mtc_perception.commands.engine_report import named, short_name
    from mtc_perception.engines.tensorrt.machine import this_machine
    from mtc_perception.engines.tensorrt.store import EngineStore

    if engine and every:
        raise UserError("name engines, or say --all")
    engines = EngineStore(store)
    entries = engines.entries()
    if engine:
        chosen = {entry.path: entry for entry in (named(entries, name) for name in engine)}
        stale, outdated = [(entry, "") for entry in chosen.values()], []
    else:
        machine = this_machine()
        reasons = [(entry, machine.misfit(entry.key)) for entry in entries]
        stale = [(entry, why or "") for entry, why in reasons if every or why is not None]
        outdated = engines.outdated()
    count = len(stale) + len(outdated)
    if not count:
        print(f"nothing to remove in {engines.root}")
        return
    for entry, why in stale:
        print(f"{short_name(entry)}  {entry.size_bytes / 2**20:.1f} MiB  {why}".rstrip())
    for record in outdated:
        print(f"{record}  of an older version, or damaged")
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("nobody to ask: say --yes to remove them")
        typer.confirm(f"Remove {count} engine{'s' if count > 1 else ''}?", abort=True)
    freed_bytes = engines.remove((entry for entry, _ in stale), outdated)
    print(f"removed {count}, {freed_bytes / 2**20:.1f} MiB")


def main() -> None:
    """Console entry point."""
    run_app(app)


if __name__ == "__main__":
    main()

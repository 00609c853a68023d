"""`mtc-compress wrap`: make a bundle of anybody's ONNX file."""

from pathlib import Path
from typing import Annotated

import typer


def wrap(
    network: Annotated[Path, typer.Argument(help="ONNX file.")],
    out: Annotated[Path, typer.Argument(help="Bundle to write: NAME.mtc, or NAME.mtc.zip.")],
    described: Annotated[
        Path,
        typer.Option(
            "--map", help="What its input and outputs mean: YAML, as those of config/maps."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the network; default: that of the file.")
    ] = None,
    licence: Annotated[
        str, typer.Option(help="Licence of the weights; copied into the bundle.")
    ] = "not stated",
    trained_on: Annotated[
        list[str] | None, typer.Option(help="Data that the weights learnt from; may be repeated.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Labelled data set: the bundle gets fp16 and int8 variants as well."),
    ] = None,
    split: Annotated[str, typer.Option(help="Part of it that variants are judged by.")] = "val",
    calibration_split: Annotated[
        str, typer.Option(help="Part of it that int8 is calibrated on.")
    ] = "train",
    force: Annotated[
        bool, typer.Option("--force", help="Replace the bundle that is there, its variants too.")
    ] = False,
) -> None:
    """Make a bundle of any ONNX network, for the node, replay and evaluation.

    Colours, mean and scale, decoding and suppression of boxes, and masks as probabilities become
    part of its graph, as the map says. Tasks that the map does not describe are lacking.

    Examples: [bold]mtc-compress wrap yolop-640-640.onnx yolop.mtc --map config/maps/yolop.yaml
    [/bold]; with variants: [bold]... --data DATA/camvid[/bold]
    """
    from mtc_perception.core.bundle import Training
    from mtc_perception.util.errors import UserError
    from offline_compress.quantization.assess import verdicts
    from offline_compress.quantization.variant_data import VariantData, add_variants_of
    from offline_compress.wrapping.network_map import load_map
    from offline_compress.wrapping.wrap import wrap_file

    known = load_map(described)
    if out.exists() and not force:
        raise UserError(f"{out} exists: choose another path, or --force replaces it")
    variants = VariantData.of(data, known.class_map, split, calibration_split) if data else None
    training = Training(data=trained_on or [], licence=licence)
    manifest = wrap_file(network, known, out, name or network.stem, training)
    if variants:
        manifest = add_variants_of(variants, out)
    print(
        f"{out}: {', '.join(manifest.tasks)} at {manifest.input.width}x{manifest.input.height},"
        f" {manifest.params / 1e6:.2f} M parameters, {manifest.gmacs:.2f} GMACs, "
        f"{', '.join(manifest.variants)}",
        *verdicts(manifest),
        sep="\n",
    )

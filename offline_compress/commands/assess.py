"""`mtc-compress assess`: measure the variants of a bundle beside fp32."""

from pathlib import Path
from typing import Annotated

import typer

from offline_compress.recipe.compression import TOLERANCE_POINTS


def assess(
    bundle: Annotated[Path, typer.Argument(help="Bundle; its manifest is written anew.")],
    data: Annotated[Path, typer.Option(help="Labelled data set.")],
    split: Annotated[str, typer.Option(help="Part of it.")] = "val",
    tolerance: Annotated[
        float, typer.Option(min=0, help="Points that no figure of a variant may lose.")
    ] = TOLERANCE_POINTS,
) -> None:
    """Measure what the variants of a bundle lose and gain beside fp32, and record it there.

    The node and replay take the fastest variant within tolerance. `run`, `quantize` and `wrap`
    record it of the variants that they make.

    Example: [bold]mtc-compress assess models/mtc_nano.mtc --data data/camvid[/bold]
    """
    from mtc_perception.core.bundle import read_bundle
    from mtc_perception.util.progress import Progress
    from offline_compress.data.labelled import labelled_split
    from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS
    from offline_compress.quantization import assess as variants
    from offline_compress.quantization.quantise import evaluator
    from offline_compress.ready import require_data
    from offline_compress.recipe.parts import DataSource

    found = read_bundle(bundle)
    source = DataSource(root=data, split=split)
    require_data([source])
    samples = labelled_split(source, "evaluate on", found.manifest.class_map)
    with Progress(alone=True) as progress:
        manifest = variants.assess(
            found,
            evaluator({data.name: samples}, CHECKPOINT_THRESHOLDS, found.manifest),
            f"{data.name} {split}, {len(samples)} images",
            tolerance,
            progress.count,
        )
    variants.write_assessed(found, manifest)
    print(*variants.verdicts(manifest), sep="\n")

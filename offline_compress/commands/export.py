"""`mtc-compress export`: write a checkpoint as a bundle."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, e.g. RUN/best.")],
    out: Annotated[Path, typer.Argument(help="Bundle to write: NAME.mtc, or NAME.mtc.zip.")],
    metrics: Annotated[
        Path | None,
        typer.Option(
            help="metrics.json of `evaluate` on this checkpoint: gives the thresholds, and is "
            "recorded in the manifest."
        ),
    ] = None,
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Detection threshold; default: best F1.")
    ] = None,
    drivable: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Drivable-area threshold; default: best mIoU."),
    ] = None,
    lane: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lane threshold; default: best IoU.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the bundle that is there, its variants too.")
    ] = False,
) -> None:
    """Export a checkpoint as the bundle that engines and the node run.

    Without --metrics the thresholds are, unless given, those of the bundle that is replaced
    (--force), else 0.3 (score) and 0.5 (masks).

    Example: [bold]mtc-compress export RUN/best mtc_nano.mtc --metrics OUT/metrics.json[/bold]
    """
    from mtc_perception.core.bundle import read_bundle
    from mtc_perception.util.errors import UserError
    from offline_compress.evaluation.metrics_file import (
        accuracy,
        data_words,
        metrics_of_checkpoint,
        recommended_thresholds,
    )
    from offline_compress.evaluation.subject import CHECKPOINT_THRESHOLDS
    from offline_compress.export import export_bundle

    former, chosen_on = CHECKPOINT_THRESHOLDS, None
    if out.exists():
        old = read_bundle(out).manifest
        if not force:
            raise UserError(
                f"{out} exists, with {', '.join(old.variants)}: choose another path, or --force "
                "replaces it and keeps its thresholds"
            )
        former, chosen_on = old.thresholds, old.thresholds_chosen_on
    result = metrics_of_checkpoint(metrics, checkpoint) if metrics else {}
    given = {"score": score, "drivable": drivable, "lane": lane}
    by_hand = {name: value for name, value in given.items() if value is not None}
    thresholds = former.model_copy(update=recommended_thresholds(result) | by_hand)
    if metrics:
        chosen_on = data_words(result)
    if by_hand:
        chosen_on = f"{chosen_on or 'unknown data'}, but by hand: {', '.join(by_hand)}"
    manifest = export_bundle(
        checkpoint,
        out,
        thresholds,
        accuracy(result) if metrics else None,
        thresholds_chosen_on=chosen_on,
    )
    print(
        f"{out}: {manifest.params / 1e6:.2f} M parameters, {manifest.gmacs:.2f} GMACs, thresholds "
        f"score {thresholds.score:g}, drivable {thresholds.drivable:g}, lane {thresholds.lane:g}"
    )

"""`mtc-compress train`: train a network."""

from pathlib import Path
from typing import Annotated

import typer

from offline_compress.commands.compress import SetOption


def train(
    recipe: Annotated[Path, typer.Option(help="Recipe YAML, see config/recipes/.")],
    changes: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of checkpoints, state and logs; default: runs/RECIPE'S NAME."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each process; default: PyTorch's.")
    ] = None,
) -> None:
    """Train a network; the same command resumes an interrupted run exactly.

    Example: [bold]mtc-compress train --recipe config/recipes/mtc_xs.yaml[/bold]
    """
    from offline_compress.recipe.recipe import load_recipe

    loaded = load_recipe(recipe, changes or ())  # before the imports that take seconds
    import torch

    from offline_compress.training.stopping import Interrupted
    from offline_compress.training.trainer import Trainer

    out = out or Path("runs") / loaded.name
    trainer = Trainer(loaded, out)
    if threads:  # not before: Accelerate sets a number of its own
        torch.set_num_threads(threads)
    main_process = trainer.accelerator.is_main_process
    if trainer.step and main_process:
        print(f"resuming {out} at step {trainer.step} of {trainer.schedule.steps}")
    try:
        trainer.run()
    except Interrupted as interrupted:
        raise typer.Exit(128 + interrupted.signal) from None
    trainer.accelerator.end_training()
    if main_process:
        print(f"done: {out / 'best'}")

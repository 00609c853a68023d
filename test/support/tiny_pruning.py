"""A whole pruning with nothing replaced but the patience of its stop watch, as a program.

`python tiny_pruning.py RECIPE.json FOLDER`: a program, so that a test sees how it ends.
"""

import sys
from pathlib import Path

import torch

from offline_compress.evaluation import latency as timing
from offline_compress.models.registry import MODELS, model_spec, save_checkpoint
from offline_compress.pruning import latency_table
from offline_compress.pruning.prune import prune_network
from offline_compress.recipe.recipe import Recipe
from support.tiny_networks import TINY

WIDE = {name: [8 * n for n in v] if name == "widths" else v for name, v in TINY.items()}
"""With layers whose width is to be seen in their time."""


def main(recipe_path: str, folder: str) -> None:
    """Make a teacher and prune it into FOLDER/pruned."""
    MODELS["tiny"] = ("conv_multitask", WIDE)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    timing.LOADS, timing.BLOCKS, timing.RUNS_PER_BLOCK = 1, 4, 2
    latency_table.ROUNDS, latency_table.SHARES, latency_table.MIXED = 4, (1.0, 0.25), 1
    latency_table.LARGEST_MISFIT = 10.0  # on a machine that does other things, too
    recipe = Recipe.model_validate_json(Path(recipe_path).read_text())
    spec = model_spec("tiny", ["vehicle"], recipe.input.height, recipe.input.width)
    save_checkpoint(Path(folder) / "teacher", spec, spec.build().eval())
    prune_network(recipe, Path(folder) / "teacher", Path(folder) / "pruned")


if __name__ == "__main__":
    main(*sys.argv[1:])

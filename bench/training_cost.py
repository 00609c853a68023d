"""`python -m bench.training_cost`: what training a recipe computes and keeps in memory, counted on
one step of two samples; for a machine that is not at hand."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.common import ends_in_one_line, write_result
from bench.tables import Result, read_results, render, with_numbers
from offline_compress.data.targets import Targets
from offline_compress.export import normalise
from offline_compress.losses.task_losses import task_losses
from offline_compress.recipe.recipe import Recipe, load_recipe
from offline_compress.training.lineage import trained_spec

PAGE = Path("docs/training.md")
NAME = "training_cost"
SAMPLES = 2
STATE_COPIES = 5
"""Of the parameters in float32: weights, gradients, AdamW's two moments, the average."""
LARGER_INPUT = {"height": 640, "width": 640, "fit": "stretch"}


def cost(recipe: Recipe) -> dict[str, Any]:
    """Per sample of a recipe's `crop`: TFLOP of forward and backward pass, GiB that wait for the
    backward pass in bf16; and GiB of what is kept per parameter."""
    torch.manual_seed(0)
    model = trained_spec(recipe).build().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    targets = _targets(recipe.crop.height, recipe.crop.width)
    images = torch.zeros(SAMPLES, 3, recipe.crop.height, recipe.crop.width, dtype=torch.uint8)
    counter = FlopCounterMode(display=False)
    with counter:
        # The counter knows the matrix products that attention consists of, not every fused kernel.
        with (
            sdpa_kernel(SDPBackend.MATH),
            saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            output = model(normalise(images), targets)
        task_losses(output, targets, recipe.mask_loss).total().backward()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "crop": [recipe.crop.height, recipe.crop.width],
        "parameters": parameters,
        "tflop_per_sample": round(counter.get_total_flops() / SAMPLES / 1e12, 3),
        "activations_gib_per_sample": round(sum(kept.values()) / SAMPLES / 2**30, 2),
        "state_gib": round(STATE_COPIES * 4 * parameters / 2**30, 2),
        "samples": recipe.schedule.epochs * recipe.schedule.samples_per_epoch,
        "batch": recipe.schedule.batch,
    }


def _targets(height: int, width: int) -> Targets:
    """Ten vehicles in every sample, all of it labelled."""
    corners = torch.rand(SAMPLES, 10, 2) * torch.tensor([width * 0.8, height * 0.8])
    boxes = torch.cat((corners, corners + 0.1 * min(height, width)), -1)
    mask = torch.zeros(SAMPLES, height, width, dtype=torch.uint8)
    mask[:, height // 2 :] = 1
    return Targets(
        boxes,
        torch.zeros(SAMPLES, 10, dtype=torch.int64),
        torch.ones(SAMPLES, dtype=torch.bool),
        mask,
        mask.clone(),
    )


def table(result: Result) -> str:
    """The measured costs as Markdown."""
    return render("training_cost.md.j2", **result)


@ends_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m bench.training_cost", description=__doc__)
    parser.add_argument(
        "--recipe",
        type=Path,
        default=Path("config/recipes/rmt_ppad_l.yaml"),
        help="recipe, of which the original's larger input is counted as well (%(default)s)",
    )
    options = parser.parse_args(arguments)
    results, console = Path("results"), Console()
    recipe = load_recipe(options.recipe)
    size = {name: LARGER_INPUT[name] for name in ("height", "width")}
    larger = Recipe.model_validate(recipe.model_dump() | {"input": LARGER_INPUT, "crop": size})
    with console.status("counting one step"):
        rows = [cost(one) for one in (recipe, larger)]
    path = write_result(results, NAME, {"recipe": recipe.name, "rows": rows})
    console.print(f"wrote {path}")
    (result,) = read_results(results, [NAME]).values()
    PAGE.write_text(with_numbers(PAGE.read_text(), table(result), "bench.training_cost"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Miniature networks and noisy labels to score: `python scoring_rig.py FOLDER` does so.

A separate program for the test that needs several processes; each leaves its scores in FOLDER.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from offline_compress.data.batch import Batch
from offline_compress.data.targets import IGNORE, Targets
from offline_compress.importance import measure, save
from offline_compress.importance.multi_task import description_of
from offline_compress.models.network import ConvMultiTask
from offline_compress.models.rmt_ppad import RmtPpad
from offline_compress.training.accelerator import start_accelerator
from support.pruning_tools import registry_groups
from support.random_norms import randomise_norms
from support.tiny_networks import TINY

QUERY: dict[str, Any] = {
    "backbone": {
        "stem": [8, 8],
        "middle": [8, 8, 8, 8],
        "widths": [8, 16, 16, 24],
        "blocks": [1, 1, 2, 1],
        "depth": 2,
        "light": True,
    },
    "width": 16,
    "fusion": 8,
    "fusion_depth": 1,
    "ffn": 16,
    "layers": 2,
    "queries": 10,
    "mask": 8,
}
BATCHES = 3
"""Of the program: two processes get two and one of them."""


def batch(seed: int, labelled: tuple[bool, bool, bool] = (True, True, True)) -> Batch:
    """Two noisy images of 64 x 96 with a box and noisy masks."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), generator=generator, dtype=torch.uint8)
    masks = torch.randint(0, 2, (2, 2, 64, 96), generator=generator, dtype=torch.uint8)
    for task in (1, 2):
        if not labelled[task]:
            masks[task - 1] = IGNORE
    return Batch(
        pixels,
        Targets(
            boxes=torch.tensor([[[10.0, 12.0, 40.0, 44.0]], [[30.0, 20.0, 90.0, 60.0]]]),
            kinds=torch.zeros(2, 1, dtype=torch.int64),
            has_boxes=torch.tensor([labelled[0]] * 2),
            drivable=masks[0],
            lane=masks[1],
        ),
    )


def network(kind: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    model = kind(**arguments)
    randomise_norms(model)
    return model.eval()


def main() -> None:
    torch.set_num_threads(1)
    accelerator = start_accelerator("fp32", 1)
    for name, model in (
        ("conv", network(ConvMultiTask, TINY)),
        ("query", network(RmtPpad, QUERY)),
    ):
        batches = [batch(seed) for seed in range(BATCHES)]
        scores = measure(model, registry_groups(model), batches, description_of(model), accelerator)
        save(Path(sys.argv[1]) / f"{name}{accelerator.process_index}", scores)


if __name__ == "__main__":
    main()

"""A small query decoder with random weights, features for it and labels."""

import math

import torch
from torch import nn

from offline_compress.data.targets import Targets
from offline_compress.models.decoder import QueryDecoder

SIZE = (64, 96)
WIDTH, CLASSES, QUERIES = 32, 2, 20


def pyramid(seed: int = 0, images: int = 2, size: tuple[int, int] = SIZE) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, WIDTH, size[0] // s, size[1] // s, generator=generator)
        for s in (8, 16, 32)
    ]


def lively(module: nn.Module, seed: int = 1) -> None:
    """Random weights everywhere: as initialised, much of a decoder is zero or symmetric."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.5 / math.sqrt(parameter.shape[-1]) if parameter.ndim > 1 else 0.3
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                child.running_mean.normal_(0, 0.2, generator=generator)  # type: ignore[union-attr]
                child.running_var.uniform_(0.5, 2.0, generator=generator)  # type: ignore[union-attr]


def decoder(layers: int = 2, seed: int = 1) -> QueryDecoder:
    torch.manual_seed(seed)
    made = QueryDecoder(WIDTH, CLASSES, layers, QUERIES, heads=4, points=3, ffn=48)
    lively(made, seed)
    return made


def in_training(made: QueryDecoder) -> QueryDecoder:
    """In training mode but for BatchNorm, so that outputs compare with those of evaluation."""
    made.train()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return made


def targets(
    boxes: list[list[list[float]]], kinds: list[list[int]], labelled: list[bool]
) -> Targets:
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.uint8)
    return Targets(
        torch.tensor(boxes).float().reshape(len(boxes), -1, 4),
        torch.tensor(kinds, dtype=torch.int64).reshape(len(boxes), -1),
        torch.tensor(labelled),
        masks,
        masks,
    )


def two_images() -> Targets:
    """Two vehicles and an ignore region between them in one image, one vehicle in the other."""
    return targets(
        [
            [[4, 4, 30, 24], [0, 0, 96, 10], [50, 20, 90, 60]],
            [[10, 30, 40, 60], [0, 0, 0, 0], [0, 0, 0, 0]],
        ],
        [[0, -2, 1], [1, -1, -1]],
        [True, True],
    )

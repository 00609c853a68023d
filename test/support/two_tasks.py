"""A network of no registry with two tasks, its data, its training and its figures."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from offline_compress.api import Description, FeatureTeacher

Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


class TwoTasks(nn.Module):
    """[N, 3, H, W] -> {"shape": logits [N, H, W], "colour": [N, 3]}."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.PReLU(16),
            nn.Conv2d(16, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
        )
        self.shape = nn.Sequential(nn.Conv2d(24, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 1, 1))
        self.colour = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.trunk(image)
        return {"shape": self.shape(x)[:, 0], "colour": self.colour(x.mean((2, 3)))}


def samples(count: int, seed: int) -> list[Sample]:
    """Batches of noisy images with a square of some colour; every third has no colour named."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        masks, colours = torch.zeros(8, 12, 16), torch.rand(8, 3, generator=generator)
        for mask in masks:
            y, x = (int(torch.randint(0, m, (), generator=generator)) for m in (6, 10))
            mask[y : y + 5, x : x + 5] = 1
        noise = 0.3 * torch.randn(8, 3, 12, 16, generator=generator)
        images = masks[:, None] * colours[..., None, None] + noise
        found.append((images, masks, colours if number % 3 else None))
    return found


def shape_loss(output: Mapping[str, torch.Tensor], batch: Sample) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(output["shape"], batch[1])


def colour_loss(output: Mapping[str, torch.Tensor], batch: Sample) -> torch.Tensor | None:
    return None if batch[2] is None else F.mse_loss(output["colour"], batch[2])


def description(**fields: object) -> Description:
    settings: dict[str, object] = {
        "example": (torch.zeros(1, 3, 12, 16),),
        "tasks": {"shape": shape_loss, "colour": colour_loss},
        "taps": {"trunk": "trunk"},
    }
    return Description(**settings | fields)  # type: ignore[arg-type]


def train(network: nn.Module, teacher: FeatureTeacher | None, steps: int) -> None:
    """A training as people write it."""
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for batch in samples(steps, 1):
        output = network(batch[0])
        loss = shape_loss(output, batch)
        if (colour := colour_loss(output, batch)) is not None:
            loss = loss + colour
        if teacher:
            loss = loss + teacher.loss(batch[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def evaluate(network: nn.Module) -> dict[str, float]:
    """Share of pixels that are right, in percent, and how near colours are."""
    right, apart = [], []
    for batch in samples(4, 2):
        output = network(batch[0])
        right.append(float(((output["shape"] > 0) == (batch[1] > 0)).float().mean()))
        if batch[2] is not None:
            apart.append(float((output["colour"] - batch[2]).abs().mean()))
    return {"pixels": 100 * sum(right) / len(right), "colours": -sum(apart) / len(apart)}

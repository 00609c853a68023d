"""The average of a network's weights over a run, which is what is validated and kept."""

import torch
from torch import nn


class MovingAverage:
    """Exponential moving average of a network's parameters and BatchNorm statistics."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Blend in the current weights; early steps average less, so that it catches up."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.state[key].lerp_(value, 1 - decay)
            else:
                self.state[key].copy_(value)

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from saved averages."""
        for key, value in state.items():
            self.state[key].copy_(value)

"""BatchNorms as if trained: initial ones would hide one that is left out or folded wrongly."""

from torch import nn


def randomise_norms(model: nn.Module) -> None:
    """Random weights and statistics for every BatchNorm, from torch's own generator."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)

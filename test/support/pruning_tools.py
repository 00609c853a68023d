"""Networks and comparisons for the tests of pruning."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from offline_compress.channels.groups import ChannelGroup, channel_groups
from offline_compress.importance.multi_task import description_of
from offline_compress.models.network import NetworkOutput
from offline_compress.models.registry import ModelSpec, model_spec
from support.random_norms import randomise_norms
from support.tiny_networks import TINY_QUERIES

HEIGHT, WIDTH = 64, 96
FULL_DECODER = "rmt_ppad_n with full masks"
LIGHT_BACKBONE = "rmt_ppad_l in small"
STRUCTURES = ("mtc_xs", "mtc_s_lite0", "rmt_ppad_n", LIGHT_BACKBONE, FULL_DECODER)
"""A network of every structure: the other ones differ in widths and depths alone."""


def spec_of(name: str) -> ModelSpec:
    """A registered network, `LIGHT_BACKBONE` or `FULL_DECODER`."""
    if name == LIGHT_BACKBONE:
        return ModelSpec(name, "rmt_ppad", TINY_QUERIES, ["vehicle"], HEIGHT, WIDTH)
    if name == FULL_DECODER:
        spec = model_spec("rmt_ppad_n", ["vehicle"], HEIGHT, WIDTH)
        return replace(spec, arguments={**spec.arguments, "segmentation": "full"})
    return model_spec(name, ["vehicle"], HEIGHT, WIDTH)


def registry_groups(model: nn.Module, protect: Sequence[str] = ()) -> list[ChannelGroup]:
    """Of a network of the registry, or one that returns the same."""
    return channel_groups(model, description_of(model, protect=protect))


def network(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """With random weights everywhere, as if trained, in eval mode."""
    torch.manual_seed(seed)
    model = spec.build()
    randomise_norms(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("blend"):
                parameter.normal_()
            elif name.startswith(("detection_head.classify", "detection_head.regress")):
                parameter.normal_(0, 0.3)  # As initialised, all cells answer nearly the same.
            elif name.startswith("detection_head.box_heads"):
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def image() -> torch.Tensor:
    return torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def answers(model: nn.Module) -> list[torch.Tensor]:
    """Everything that the network predicts for `image`, in its own precision."""
    return list_of(model(image().to(next(model.parameters()).dtype)))


def assert_equal_but_for_rounding(one: nn.Module, other: nn.Module) -> None:
    """Both in float64: only what the heads round to float32 may differ."""
    for a, b in zip(answers(one), answers(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-5)


def list_of(output: NetworkOutput) -> list[torch.Tensor]:
    return [output.detections.logits, output.detections.boxes, output.drivable, output.lane]


def some_channels(
    groups: Sequence[ChannelGroup], share: float, seed: int = 0
) -> dict[str, list[int]]:
    """A random share of the channels of every group that is not protected."""
    generator = torch.Generator().manual_seed(seed)
    return {
        group.name: torch.randperm(group.size, generator=generator)[
            : max(1, int(group.size * share))
        ].tolist()
        for group in groups
        if not group.protected
    }

"""Networks with the structure of public ones: followed, and cut without a change."""

import copy

import pytest
import torch
from torch import nn

from mtc_perception.util.errors import UserError
from offline_compress.api import Description, channel_groups, keep_channels
from offline_compress.pruning.cost import layer_costs
from support.stand_ins import HybridLike, TwinLike, YoloLike


def described(**fields: object) -> Description:
    return Description((torch.zeros(1, 3, 32, 48),), {}, **fields)  # type: ignore[arg-type]


def of_hybrid(output: tuple[object, ...]) -> tuple[object, ...]:
    """Its features are no answer."""
    return output[1:]


@pytest.mark.parametrize(
    ("network", "description", "least"),
    [
        (TwinLike, described(), 0.4),
        (YoloLike, described(), 0.9),
        (HybridLike, described(answers=of_hybrid), 0.9),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_public_structures_lose_half_of_their_channels(
    network: type[nn.Module], description: Description, least: float
) -> None:
    torch.manual_seed(0)
    model = network()
    groups = channel_groups(model, description)  # compares what is cut with what is not read
    free = {
        part.layer
        for group in groups
        if not group.protected
        for part in group.slices
        if part.side == "out"
    }
    weights = {name: p.numel() for name, p in model.named_parameters()}
    share = sum(n for name, n in weights.items() if name.rpartition(".")[0] in free)
    assert share / sum(weights.values()) >= least
    cut = copy.deepcopy(model)
    kept = {g.name: range(-(-g.size // 2)) for g in groups if not g.protected}
    keep_channels(cut, groups, kept)
    costs = layer_costs(model, groups, description.example)
    matrix_products_of_attention = network is TwinLike
    assert (costs.rest[1] > 0) == matrix_products_of_attention  # else each belongs to a layer
    assert sum(p.numel() for p in cut.parameters()) < (1 - 0.6 * least) * sum(weights.values())
    for mode in (True, False):
        cut.train(mode)(torch.randn(2, 3, 32, 48))
    again = channel_groups(cut, description)
    assert [group.name for group in again] == [group.name for group in groups]


def test_attention_keeps_what_it_reads() -> None:
    reasons = {g.name: g.protected for g in channel_groups(TwinLike(), described())}
    assert reasons["attention.query"].startswith("read by")
    assert reasons["mix"].startswith("read by")
    assert not reasons["attention.leave"]


def test_heads_of_anchors_keep_their_predictions() -> None:
    groups = {g.name: g for g in channel_groups(YoloLike(), described())}
    assert groups["detect.predict.0"].protected
    assert not groups["fuse.cv4.conv"].protected


def test_what_is_no_module_of_a_network_is_named() -> None:
    with pytest.raises(UserError, match="opaque names 'attenton', which is no part"):
        channel_groups(TwinLike(), described(opaque=["attenton"]))

"""Channel groups of networks of any make: what is cut is what was switched off."""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mtc_perception.util.errors import UserError
from offline_compress.channels import operations
from offline_compress.channels.description import Description
from offline_compress.channels.groups import ChannelGroup, channel_groups
from offline_compress.channels.proof import proven_groups, switch_off
from offline_compress.channels.surgery import keep_channels
from support.any_layers import (
    BLOCKS,
    AnyNetwork,
    Attended,
    ConvAct,
    Fused,
    Grouped,
    Interleaved,
    Inverted,
    Looked,
    Separable,
    Shuffled,
    Split,
    Transposed,
)

EXAMPLE = (torch.zeros(1, 3, 8, 12),)


def described(**fields: object) -> Description:
    return Description(EXAMPLE, {}, **fields)  # type: ignore[arg-type]


def groups_of(network: nn.Module) -> dict[str, ChannelGroup]:
    return {group.name: group for group in channel_groups(network, described())}


def randomised(network: nn.Module) -> nn.Module:
    """In float64 and eval mode, with no weight at its first value."""
    with torch.no_grad():
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.add_(0.3 * torch.randn_like(tensor))
    return network.double().eval()


@settings(max_examples=40, deadline=None)
@given(
    blocks=st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4),
    added=st.lists(st.booleans(), min_size=4, max_size=4),
    seed=st.integers(0, 2**16),
)
def test_what_is_cut_is_what_was_switched_off(
    blocks: list[type[nn.Module]], added: list[bool], seed: int
) -> None:
    torch.manual_seed(seed)
    network = randomised(AnyNetwork(blocks, added[: len(blocks)]))
    groups = channel_groups(network, described())
    rng = np.random.default_rng(seed)
    kept = {
        group.name: rng.choice(group.size, rng.integers(1, group.size + 1), replace=False).tolist()
        for group in groups
        if not group.protected
    }
    off, cut = copy.deepcopy(network), copy.deepcopy(network)
    switch_off(off, groups, kept)
    keep_channels(cut, groups, kept)
    image = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        for one, other in zip(cut(image).values(), off(image).values(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    again = {group.name: group for group in channel_groups(cut, described())}
    for group in groups:
        if not group.protected and len(kept[group.name]) > 1:
            assert again[group.name].size == len(kept[group.name])


def test_the_layers_of_the_field_can_be_pruned() -> None:
    prunable = {
        ConvAct: {"stem": 8, "blocks.0.0": 8},
        Separable: {"stem": 8, "blocks.0.4": 8},
        Grouped: {"stem": 8, "blocks.0.0": 2, "blocks.0.4": 8},
        Inverted: {"stem": 8, "blocks.0.widen": 24, "blocks.0.squeeze": 4},
        Split: {"stem": 8, "blocks.0.leave": 8},
        Shuffled: {"stem": 8, "blocks.0.widen": 8, "blocks.0.down": 8},
        Transposed: {"stem": 8, "blocks.0.up": 8, "blocks.0.leave": 8},
        Fused: {"stem": 8, "blocks.0.coarse": 8},
        Attended: {"stem": 8, "blocks.0.ffn.0": 12},
        Looked: {"stem": 8, "blocks.0.leave": 8},
        Interleaved: {"stem": 8, "blocks.0.enter": 4, "blocks.0.leave": 8},
    }
    for block, expected in prunable.items():
        groups = groups_of(AnyNetwork([block], [False]))
        found = {name: group.size for name, group in groups.items() if not group.protected}
        assert expected.items() <= found.items(), block
        assert found["classify.2"] == 10
    reasons = {
        block: groups_of(AnyNetwork([block], [False]))["blocks.0.enter"].protected
        for block in (Attended, Looked)
    }
    assert reasons[Attended] == "normalised over all channels in blocks.0.norm"
    assert reasons[Looked] == "read by mean in blocks.0"


class Takes(nn.Module):
    """A network that takes channels by their numbers."""

    def __init__(self, take: Callable[[torch.Tensor], torch.Tensor], width: int) -> None:
        super().__init__()
        self.take = take
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(width, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.take(self.stem(image)))


@pytest.mark.parametrize(
    ("take", "width"),
    [
        (lambda x: x[:, 2:6], 4),
        (lambda x: x[:, ::2], 4),
        (lambda x: x[:, torch.randperm(8)], 8),
        (lambda x: x.roll(3, 1), 8),
        (lambda x: x.split((3, 5), 1)[0], 3),
        (lambda x: torch.stack(x.unbind(1)[:4], 1), 4),
        (lambda x: x.unfold(1, 4, 2).mean(-1), 3),
        (lambda x: x.sort(1).values, 8),
        (lambda x: x.cumsum(1), 8),
        (lambda x: torch.einsum("nchw,cd->ndhw", x, torch.ones(8, 4)), 4),
        (lambda x: x + torch.arange(8.0)[:, None, None], 8),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)) + torch.zeros(1, 10, 1, 1), 10),
        (lambda x: F.normalize(x, dim=1), 8),
        (lambda x: F.local_response_norm(x, 3), 8),
    ],
)
def test_what_tells_channels_apart_keeps_them(
    take: Callable[[torch.Tensor], torch.Tensor], width: int
) -> None:
    groups = proven_groups(Takes(take, width), described())
    assert {group.name: bool(group.protected) for group in groups} == {"stem": True, "head": True}


class CountsItself(nn.Module):
    """A network that knows by heart how many channels it has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first, second = self.stem(image).split((4, 4), 1)
        return self.head(first * second)


def test_what_counts_its_channels_is_named() -> None:
    with pytest.raises(UserError, match=r"channels of stem cannot be removed: .*under protect"):
        proven_groups(CountsItself(), described())
    groups = proven_groups(CountsItself(), described(protect=["stem"]))
    assert all(group.protected for group in groups)


@pytest.mark.parametrize(
    ("take", "width", "groups"),
    [
        (nn.ChannelShuffle(2), 8, 4),
        (nn.ChannelShuffle(4), 8, 2),
        (lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2).relu(), 2), 8, 2),
    ],
)
def test_what_is_shuffled_in_rows_goes_in_rows(
    take: Callable[[torch.Tensor], torch.Tensor], width: int, groups: int
) -> None:
    network = randomised(Takes(take, width))
    found = proven_groups(network, described())
    assert {g.name: g.size for g in found if not g.protected} == {"stem": groups}
    off, cut = copy.deepcopy(network), copy.deepcopy(network)
    kept = {"stem": [groups - 1]}
    switch_off(off, found, kept)
    keep_channels(cut, found, kept)
    image = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    torch.testing.assert_close(cut(image), off(image), rtol=1e-9, atol=1e-9)


def test_the_proof_does_not_trust_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every second channel kept, a shuffle in pairs does the same as before."""
    monkeypatch.setattr(operations, "SHUFFLES", frozenset())
    network = Takes(nn.ChannelShuffle(2), 8)
    assert channel_groups(network, described())[0].size == 8
    with pytest.raises(UserError, match="channels of stem cannot be removed"):
        proven_groups(network, described())


class OnlyInTraining(Takes):
    """A network with a second answer in training, for which it counts its channels."""

    def __init__(self) -> None:
        super().__init__(lambda x: x.relu(), 8)
        self.norm, self.aside = nn.BatchNorm2d(8), nn.Conv2d(4, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        x = self.norm(self.stem(image))
        if not self.training:
            return self.head(x)
        return self.head(F.dropout(x)), self.aside(x.split((4, 4), 1)[0])


def test_paths_of_training_are_tried() -> None:
    network = OnlyInTraining().eval()
    own = described(answers=lambda output: output if torch.is_tensor(output) else output[0])
    state, seed = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    with pytest.raises(UserError, match=r"of stem cannot be removed: in training mode .* split"):
        proven_groups(network, own)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), seed)
    assert not network.training
    protected = replace(own, protect=["stem"])
    assert all(group.protected for group in proven_groups(network, protected))


class Looks(nn.Module):
    """A network that takes another way where an image is bright."""

    def __init__(self, look: Callable[[torch.Tensor], float]) -> None:
        super().__init__()
        self.look, self.decide = look, nn.Identity()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        return self.head(x if self.look(self.decide(image).mean()) > 0 else x.relu())


@pytest.mark.parametrize(
    ("look", "how"),
    [
        (lambda mean: mean, "_local_scalar_dense"),
        (lambda mean: mean.numpy(), "numpy"),
        (lambda mean: mean.detach().cpu().tolist(), "tolist"),
        (np.asarray, "__array__"),
    ],
)
def test_data_dependent_control_flow_is_named(
    look: Callable[[torch.Tensor], float], how: str
) -> None:
    with pytest.raises(UserError, match=rf"network itself looks into .*\({how}\).*opaque"):
        channel_groups(Looks(look), described())


def test_a_network_may_look_into_what_is_its_own() -> None:
    network = Looks(lambda _mean: sum(torch.ones(2).tolist()) + float(torch.ones(2).numpy()[0]))
    assert not groups_of(network)["stem"].protected


class Gated(nn.Module):
    """One gate for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(x).sigmoid().expand_as(x) * x


class Dropped(nn.Module):
    """Now and then nothing is added to the residual stream, as in DropPath of timm."""

    def __init__(self) -> None:
        super().__init__()
        self.add = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added = self.add(x)
        if self.training:
            added = added * added.new_empty((len(x), 1, 1, 1)).bernoulli_(0.8).div_(0.8)
        return x + added


class Stacked(nn.Module):
    """A weighted sum of what is stacked, as in EfficientDet's BiFPN."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stacked = torch.stack((self.one(x), self.two(x)), -1)
        return (stacked * self.weights.softmax(0)).sum(-1)


def rows_of(number: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A shuffle of channels as ShuffleNets write it."""

    def shuffle(x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.view(n, number, c // number, h, w).transpose(1, 2).reshape(n, c, h, w)

    return shuffle


@pytest.mark.parametrize(
    ("take", "width", "free"),
    [
        (Gated(), 8, {"stem": 8}),
        (Dropped(), 8, {"stem": 8}),
        (Stacked(), 8, {"stem": 8, "take.one": 8}),
        (lambda x: torch.cat((x, x.new_zeros(1, 1, 8, 12)), 1), 9, {"stem": 8}),
        (lambda x: x.unfold(1, 4, 4).mean(-1), 2, {"stem": 2}),
        (rows_of(2), 8, {"stem": 4}),
        (rows_of(4), 8, {"stem": 2}),
        (lambda x: rows_of(4)(torch.cat((x, x), 1)), 16, {"stem": 4}),
    ],
)
def test_what_does_not_count_channels_loses_some(
    take: Callable[[torch.Tensor], torch.Tensor], width: int, free: dict[str, int]
) -> None:
    groups = proven_groups(Takes(take, width), described())
    assert {group.name: group.size for group in groups if not group.protected} == free


class BothKinds(nn.Module):
    """Of one shuffle whole columns could go, of the other whole rows."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rows_of(4)(self.two(rows_of(2)(self.one(x))))


def test_shuffles_of_both_kinds_keep_what_they_read() -> None:
    reasons = {g.name: g.protected for g in proven_groups(Takes(BothKinds(), 8), described())}
    reason = "taken apart into a fixed number in take"
    expected = {"stem": "", "take.one": reason, "take.two": reason, "head": "prediction"}
    assert reasons == expected


class Borrows(nn.Module):
    """A layer's bias is added elsewhere, too; and a scale that no file holds."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.stem, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.head, self.scaled = nn.Conv2d(8, 2, 1), scaled
        self.register_buffer("scale", torch.rand(1, 8, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image).relu()
        x = x * self.scale if self.scaled else x + self.second.bias.view(1, -1, 1, 1)
        return self.head(self.second(x))


def test_vectors_of_a_layer_go_with_it() -> None:
    first, last = proven_groups(Borrows(False), described())
    assert (first.name, first.size, first.protected) == ("stem", 8, "")
    assert {(part.layer, part.side) for part in first.slices} == {
        *(("stem", "out"), ("second", "in"), ("second", "out"), ("head", "in"))
    }
    assert last.protected


def test_what_no_file_holds_keeps_its_channels() -> None:
    """Or a network that is loaded would have the first number again."""
    groups = {group.name: group for group in proven_groups(Borrows(True), described())}
    assert groups["stem"].protected == "combined with what is not followed in the network itself"
    assert not groups["second"].protected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"opaque": ["blokcs.0"]}, "opaque names 'blokcs.0', which is no part"),
        ({"taps": {"a": "blocks.7"}}, "taps names 'blocks.7', which is no part"),
        ({"taps": {"a": "classify.4"}}, "tap a is no feature"),
        ({"taps": {"a": "blocks"}}, "tap a is no feature"),
        ({"taps": {"a": lambda output: output}}, "tap a is no feature"),
        ({"protect": ["nowhere"]}, "protect names 'nowhere'"),
        ({"answers": lambda output: object()}, "returns a object, in which no tensors"),
    ],
)
def test_mistakes_in_a_description_are_one_line(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        channel_groups(AnyNetwork([ConvAct], [False]), described(**fields))
    assert "\n" not in str(caught.value)


def test_an_opaque_part_keeps_its_shape() -> None:
    network = AnyNetwork([ConvAct, Inverted], [False, False])
    groups = {
        group.name: group for group in channel_groups(network, described(opaque=["blocks.1"]))
    }
    assert groups["blocks.0.0"].protected == "read by blocks.1, which is opaque"
    assert not any(name.startswith("blocks.1") for name in groups)


def test_taps_are_modules_too() -> None:
    network = AnyNetwork([ConvAct, Grouped], [False, False])
    described_taps = described(taps={"one": "blocks.0", "two": lambda output: output["mask"]})
    groups = {group.name: group for group in channel_groups(network, described_taps)}
    assert groups["blocks.0.0"].taps["one"].tolist() == list(range(8))
    assert groups["mask"].taps["two"].tolist() == [0, 1]


class Wrong(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.conv2d(image, torch.zeros(2, 5, 1, 1))


def test_a_network_that_does_not_run_is_told_so() -> None:
    with pytest.raises(UserError, match=r"does not run on `example` in eval mode: .*channels"):
        proven_groups(Wrong(), described())


class Answers(nn.Module):
    """A network that returns what is made of its logits."""

    def __init__(self, make: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.make, self.stem, self.head = make, nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, image: torch.Tensor) -> object:
        return self.make(self.head(self.stem(image)))


TURNS = cycle((1, 2))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _x: None, "returns no tensors in eval mode"),
        (lambda x: x[:0], "returns no tensors in eval mode, or empty ones"),
        (lambda x: (x,) * next(TURNS), "answers one image in two ways"),
        (F.dropout, "answers one image in two ways"),
    ],
    ids=["nothing", "empty", "by turns", "random"],
)
def test_answers_that_prove_nothing_are_refused(
    make: Callable[[torch.Tensor], object], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        proven_groups(Answers(make), described())


class TwoNames(AnyNetwork):
    """One block can be found by two names."""

    def __init__(self) -> None:
        super().__init__([ConvAct, ConvAct], [False, False])
        self.last = self.blocks[1]


class Tokens(nn.Module):
    """Features are [N, T, C] in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.stem(image).flatten(2).transpose(1, 2)))


def test_taps_on_tokens_are_refused() -> None:
    taken = r"^tap a is \[1, 96, 8\] with channels elsewhere than in dimension 1; name a module"
    with pytest.raises(UserError, match=taken):
        channel_groups(Tokens(), described(taps={"a": "mix"}))
    groups = channel_groups(Tokens(), described(taps={"a": "stem"}))
    assert groups[0].taps["a"].tolist() == list(range(8))


def test_a_module_may_have_two_names() -> None:
    groups = channel_groups(TwoNames(), described(taps={"a": "last"}))
    found = {group.name: group for group in groups}
    assert not found["blocks.1.0"].protected
    assert found["blocks.1.0"].taps["a"].tolist() == list(range(8))
    groups = channel_groups(TwoNames(), described(opaque=["last"]))
    assert "blocks.1.0" not in {group.name for group in groups}


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.token = nn.Parameter(torch.zeros(1, 8, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(image)
        return out


class Weighted(nn.Module):
    """With weights of its losses, and tokens that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.log_vars = nn.Parameter(torch.zeros(2))
        self.stem = nn.Conv2d(3, 8, 1)
        self.stem.token = nn.Parameter(torch.zeros(1, 8, 1, 1))
        self.mid = Masked()
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.mid(self.stem(image)))
        return out


def test_parameters_that_are_no_channels_need_not_run() -> None:
    network = Weighted()
    del network.stem.token
    assert set(groups_of(network)) == {"stem", "mid.conv", "head"}
    assert {group.name for group in proven_groups(network, described())} == set(groups_of(network))


def test_all_parts_that_do_not_run_are_named_as_opaque_takes_them() -> None:
    network = Weighted()
    network.mid.old = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Sequential(nn.Conv2d(4, 1, 1)))
    network.weighting = nn.Module()
    network.weighting.log_vars = nn.Parameter(torch.zeros(2))
    with pytest.raises(
        UserError, match=r"^stem, mid\.old, weighting take no .*name them under"
    ) as e:
        groups_of(network)
    named = str(e.value).partition(" take")[0].split(", ")
    assert channel_groups(network, described(opaque=named))

"""What examples with random weights do with a network: half of its work goes; is that exact?"""

import copy
import json

import torch

from offline_compress.api import (
    Budget,
    PruningRules,
    channel_groups,
    channel_scores,
    choose,
    keep_channels,
    switch_off,
    wrap_module,
)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def halved(network, description, batches):
    """The network with half of its multiply-accumulates, and figures of how that went."""
    groups = channel_groups(network, description)
    free = [group for group in groups if not group.protected]
    least = copy.deepcopy(network)
    keep_channels(least, groups, {group.name: [0] for group in free})

    scores = channel_scores(network, groups, batches, description)
    rules = PruningRules(budget=Budget(macs=0.5), least_channels=8)
    kept = choose(network, groups, scores, description, rules)
    small = copy.deepcopy(network).eval()
    keep_channels(small, groups, kept)

    # Removed channels must be worth the same as channels that are 0 for all that read them.
    off, cut = copy.deepcopy(network).double().eval(), copy.deepcopy(small).double()
    switch_off(off, groups, kept)
    image = torch.rand(description.example[0].shape, dtype=torch.float64)
    with torch.no_grad():
        answers = [list(description.answers(one(image))) for one in (off, cut)]
    apart = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*answers, strict=True))
    return small, {
        "groups": len(groups),
        "groups_that_may_lose_channels": len(free),
        "parameters": parameters(network),
        "share_of_parameters_prunable": 1 - parameters(least) / parameters(network),
        "share_of_parameters_left": parameters(small) / parameters(network),
        "largest_relative_difference": apart,
    }


def finish(out, whole, small, image, described, figures):
    """Print the figures, and leave them and both networks as bundles in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, network in (("whole", whole), ("small", small)):
        wrap_module(network, image, described, out / f"{name}.mtc", name)
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(*(f"{name:30} {value:.4g}" for name, value in figures.items()), sep="\n")

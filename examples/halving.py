"""What examples with random weights do with a network: half of its work goes; is that exact?"""

import copy
import json

import torch

import offline_compress.api as mtc


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def halved(network, description, batches):
    """The network with half of its multiply-accumulates, and figures of how that went."""
    # With random weights and no statistics of its own, what flows dies out, and any cut is exact.
    mtc.recalibrate(network, batches, description, lambda done, total: None)
    groups = mtc.channel_groups(network, description)
    free = [group for group in groups if not group.protected]
    least = copy.deepcopy(network)
    mtc.keep_channels(least, groups, {group.name: [0] for group in free})

    scores = mtc.channel_scores(network, groups, batches, description)
    rules = mtc.PruningRules(budget=mtc.Budget(macs=0.5), least_channels=8)
    kept = mtc.choose(network, groups, scores, description, rules)
    small = copy.deepcopy(network).eval()
    mtc.keep_channels(small, groups, kept)

    # Removed channels must be worth the same as channels that are 0 for all that read them. How far
    # answers are apart is judged by how far those to two images are.
    off, cut = copy.deepcopy(network).double().eval(), copy.deepcopy(small).double()
    mtc.switch_off(off, groups, kept)
    images = torch.rand(2, *description.example[0].shape[1:], dtype=torch.float64)
    with torch.no_grad():
        answers = zip(*(description.answers(one(images)) for one in (off, cut)), strict=True)
    apart = max(float((a - b).abs().max() / (a[0] - a[1]).abs().max()) for a, b in answers)
    return small, {
        "groups": len(groups),
        "groups_that_may_lose_channels": len(free),
        "parameters": parameters(network),
        "share_of_parameters_prunable": 1 - parameters(least) / parameters(network),
        "share_of_parameters_left": parameters(small) / parameters(network),
        "largest_difference": apart,
    }


def finish(out, whole, small, image, described, figures):
    """Print the figures, and leave them and both networks as bundles in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, network in (("whole", whole), ("small", small)):
        mtc.wrap_module(network, image, described, out / f"{name}.mtc", name)
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(*(f"{name:30} {value:.4g}" for name, value in figures.items()), sep="\n")

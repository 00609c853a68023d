"""Hybrid encoder: the numbers of an independent implementation, any size, fusing, pruning."""

import pytest
import torch
import torch_pruning as tp
from transformers import RTDetrConfig
from transformers.models.rt_detr.modeling_rt_detr import RTDetrHybridEncoder

from offline_compress.models.blocks import RepConv
from offline_compress.models.fuse import fuse
from offline_compress.models.hybrid_encoder import HybridEncoder, sine_position
from support.random_norms import randomise_norms

WIDTHS = (12, 20, 28)
WIDTH, FFN, HEADS = 32, 48, 4


def encoder(hidden: int, seed: int = 0) -> HybridEncoder:
    torch.manual_seed(seed)
    model = HybridEncoder(WIDTHS, WIDTH, hidden, 3, FFN, HEADS).eval()
    randomise_norms(model)
    return model


def features(height: int, width: int) -> list[torch.Tensor]:
    return [
        torch.randn(2, c, height // s, width // s) for c, s in zip(WIDTHS, (8, 16, 32), strict=True)
    ]


RENAMED = {
    "attend.attention.out_proj.": "aifi.0.layers.0.self_attn.o_proj.",
    "attend.attention_norm.": "aifi.0.layers.0.self_attn_layer_norm.",
    "attend.expand.": "aifi.0.layers.0.mlp.fc1.",
    "attend.reduce.": "aifi.0.layers.0.mlp.fc2.",
    "attend.ffn_norm.": "aifi.0.layers.0.final_layer_norm.",
    # Theirs counts the top-down steps from the coarsest level.
    "lateral.1.": "lateral_convs.0.",
    "lateral.0.": "lateral_convs.1.",
    "top_down.1.": "fpn_blocks.0.",
    "top_down.0.": "fpn_blocks.1.",
    "down.": "downsample_convs.",
    "bottom_up.": "pan_blocks.",
}
INSIDE = {
    "enter.0": "conv1.conv",
    "enter.1": "conv1.norm",
    "skip.0": "conv2.conv",
    "skip.1": "conv2.norm",
    "merge.0": "conv3.conv",
    "merge.1": "conv3.norm",
    "convs": "bottlenecks",
    "wide.0": "conv1.conv",
    "wide.1": "conv1.norm",
    "point.0": "conv2.conv",
    "point.1": "conv2.norm",
}


def reference_name(key: str) -> str:
    """Our parameter's name in transformers' encoder."""
    prefix = next(p for p in RENAMED if key.startswith(p))
    rest = key.removeprefix(prefix)
    for ours, theirs in INSIDE.items():
        rest = rest.replace(ours, theirs)
    if prefix.startswith(("lateral", "down")):
        level, index, leaf = ("", *rest.split(".")) if prefix[-2].isdigit() else rest.split(".")
        rest = f"{level}.{('conv', 'norm')[int(index)]}.{leaf}".lstrip(".")
    return RENAMED[prefix] + rest


@pytest.mark.parametrize("expansion", [1.0, 0.5])
def test_same_numbers_as_transformers(expansion: float) -> None:
    config = RTDetrConfig(
        encoder_in_channels=list(WIDTHS),
        encoder_hidden_dim=WIDTH,
        encoder_ffn_dim=FFN,
        encoder_attention_heads=HEADS,
        hidden_expansion=expansion,
        activation_function="silu",
        encoder_activation_function="gelu",
        dropout=0.0,
        eval_size=None,
    )
    torch.manual_seed(1)
    reference = RTDetrHybridEncoder(config).eval()
    model = encoder(int(WIDTH * expansion))
    weights = {
        reference_name(key): value
        for key, value in model.state_dict().items()
        if not key.startswith(("project.", "attend.attention.in_proj"))
    }
    attention = model.attend.attention
    assert attention.in_proj_weight is not None
    for index, letter in enumerate("qkv"):
        rows = slice(index * WIDTH, (index + 1) * WIDTH)
        name = f"aifi.0.layers.0.self_attn.{letter}_proj"
        weights[f"{name}.weight"] = attention.in_proj_weight[rows]
        weights[f"{name}.bias"] = attention.in_proj_bias[rows]
    reference.load_state_dict(weights)
    inputs = features(64, 96)
    with torch.no_grad():
        got = model(inputs)
        levels = [project(f) for project, f in zip(model.project, inputs, strict=True)]
        wanted = reference(inputs_embeds=levels).last_hidden_state
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_position_tells_rows_from_columns() -> None:
    position = sine_position(3, 5, 16, torch.device("cpu")).reshape(3, 5, 16)
    assert torch.equal(position[:, 0, :8], position[:, 4, :8])
    assert torch.equal(position[0, :, 8:], position[2, :, 8:])
    assert not torch.allclose(position[0, 1], position[1, 0])
    # Channel 1 of 4 turns by 10000^(-1/4) per row.
    assert position[2, 3, 1].item() == pytest.approx(torch.tensor(2 * 0.1).sin().item(), abs=1e-6)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (96, 32)])
def test_any_multiple_of_32(height: int, width: int) -> None:
    pyramid = encoder(16)(features(height, width))
    shapes = [(height // s, width // s) for s in (8, 16, 32)]
    assert [tuple(p.shape) for p in pyramid] == [(2, WIDTH, *shape) for shape in shapes]


def test_fused_computes_the_same() -> None:
    model = encoder(16)
    fused = fuse(model)
    assert not any(isinstance(m, RepConv) for m in fused.modules())
    inputs = features(64, 96)
    with torch.no_grad():
        for plain, merged in zip(model(inputs), fused(inputs), strict=True):
            torch.testing.assert_close(merged, plain, rtol=1e-4, atol=1e-4)
    # The 1x1 branches, and the BatchNorms behind both, have become one bias.
    saved = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in fused.parameters())
    assert saved == 4 * 3 * (16 * 16 + 4 * 16 - 16)
    assert any(isinstance(m, RepConv) for m in model.modules())


def test_channels_can_be_pruned() -> None:
    model = encoder(16)
    inputs = [f[:1] for f in features(64, 96)]
    graph = tp.DependencyGraph().build_dependency(model, [inputs])
    conv = model.top_down[0].convs[1].wide[0]  # type: ignore[union-attr,index]
    group = graph.get_pruning_group(conv, tp.prune_conv_out_channels, [1, 2, 9, 15])
    assert graph.check_pruning_group(group)
    group.prune()
    assert conv.weight.shape[0] == 12
    assert [p.shape[1] for p in model(inputs)] == [WIDTH] * 3
    fused = fuse(model)
    with torch.no_grad():
        for plain, merged in zip(model(inputs), fused(inputs), strict=True):
            torch.testing.assert_close(merged, plain, rtol=1e-4, atol=1e-4)

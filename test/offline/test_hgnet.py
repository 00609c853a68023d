"""HGNetV2: the numbers of an independent implementation, its size, and pruning it."""

import re

import pytest
import torch
import torch_pruning as tp
from transformers import HGNetV2Backbone, HGNetV2Config

from offline_compress.models.hgnet import HGNetV2
from offline_compress.models.registry import MODELS
from support.random_norms import randomise_norms

STEM, MIDDLE, WIDTHS, BLOCKS = (8, 12), (8, 12, 16, 20), (24, 32, 40, 48), (1, 2, 2, 1)


def small(light: bool) -> HGNetV2:
    return HGNetV2(STEM, MIDDLE, WIDTHS, BLOCKS, 3, light).eval()


def reference_name(key: str) -> str:
    """Our parameter's name in transformers' model."""
    key = re.sub(r"^stem\.", "embedder.", key)
    key = re.sub(r"^stages\.", "encoder.stages.", key)
    return key.replace(".conv.", ".convolution.").replace(".bn.", ".normalization.")


@pytest.mark.parametrize("light", [True, False])
def test_same_numbers_as_transformers(light: bool) -> None:
    torch.manual_seed(0)
    config = HGNetV2Config(
        stem_channels=[3, *STEM],
        stage_in_channels=[STEM[1], *WIDTHS[:-1]],
        stage_mid_channels=MIDDLE,
        stage_out_channels=WIDTHS,
        stage_num_blocks=BLOCKS,
        stage_light_block=[False, False, light, light],
        stage_kernel_size=[3, 3, 5, 5] if light else [3, 3, 3, 3],
        stage_numb_of_layers=[3, 3, 3, 3],
        hidden_sizes=WIDTHS,
        depths=BLOCKS,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    reference = HGNetV2Backbone(config).eval()
    randomise_norms(reference)
    weights = reference.state_dict()
    model = small(light)
    model.load_state_dict({key: weights.pop(reference_name(key)) for key in model.state_dict()})
    assert not weights
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        got, wanted = model(image), reference(image).feature_maps
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
        assert mine.std() > 1e-3


def test_large_has_the_published_size() -> None:
    model = HGNetV2(**MODELS["rmt_ppad_l"][1]["backbone"])
    # 13.53 M after folding each BatchNorm into one bias (facts of arXiv 2508.06529's backbone).
    norms = sum(m.num_features for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    count = sum(p.numel() for p in model.parameters()) - norms
    assert count == pytest.approx(13.53e6, rel=1e-3)


@pytest.mark.parametrize("light", [True, False])
def test_channels_can_be_pruned(light: bool) -> None:
    model = small(light)
    image = torch.randn(1, 3, 64, 96)
    graph = tp.DependencyGraph().build_dependency(model, image)
    group = graph.get_pruning_group(
        model.stages[1].blocks[0].aggregation[1].conv,  # type: ignore[union-attr,index]
        tp.prune_conv_out_channels,
        [0, 3, 5, 7],
    )
    assert graph.check_pruning_group(group)
    group.prune()
    assert [f.shape[1] for f in model(image)] == [24, 28, 40, 48]
    pruner = tp.pruner.MagnitudePruner(
        model, image, tp.importance.MagnitudeImportance(), pruning_ratio=0.25
    )
    before = sum(p.numel() for p in model.parameters())
    pruner.step()
    assert sum(p.numel() for p in model.parameters()) < 0.7 * before
    assert [f.shape[1] for f in model(image)] == [18, 21, 30, 36]

